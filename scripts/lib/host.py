"""What a table of figures is from: the processor, the kernel, and which KVM runs the guests. A sentence's part, for every script that measures."""

import os
from pathlib import Path

# The modules that can run guests, and the processor's flag without which they cannot.
KVM_MODULES = {"kvm_intel": "vmx", "kvm_amd": "svm", "kvm_pvm": None}


def described(accelerator=None):
    """The host, such as 'AMD EPYC (2 processors, itself a virtual machine), Linux 6.18.44, guests by kvm_pvm'.

    Of emulated guests `accelerator` is 'TCG'.
    """
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    modules = [name for name in KVM_MODULES if Path("/sys/module", name).exists()]
    return sentence(cpuinfo, os.cpu_count(), os.uname().release, accelerator or kvm(modules, flags(cpuinfo)))


def sentence(cpuinfo, processors, release, accelerator):
    """The same, of what is known."""
    count = "1 processor" if processors == 1 else f"{processors} processors"
    inside = ", itself a virtual machine" if "hypervisor" in flags(cpuinfo) else ""
    return f"{field(cpuinfo, 'model name') or 'a processor without a name'} ({count}{inside}), Linux {release}, guests by {accelerator}"


def kvm(modules, has):
    """The module that runs guests. One built in is there whether it can run any or not: a processor's flag tells these apart."""
    able = [name for name in modules if KVM_MODULES[name] in has or KVM_MODULES[name] is None]
    return " or ".join(able) if able else "a KVM of unknown kind"


def flags(cpuinfo):
    return field(cpuinfo, "flags").split()


def field(cpuinfo, name):
    """The first value of that name, or nothing."""
    for line in cpuinfo.splitlines():
        found, _, value = line.partition(":")
        if found.strip() == name:
            return " ".join(value.split())
    return ""
