"""Whimbrel and QEMU, started alike: same guest, same memory, a serial port and a QMP socket each."""

import os
import shutil
import subprocess
import tempfile
import time

from .channels import Qmp, RunFailed, RunSkipped, Serial
from .plan import AFTER_A_PASS, MULTIFD, PRECOPY

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def channels(mode):
    """The parameter of a mode that is about multifd channels."""
    return {"multifd-channels": MULTIFD[mode]} if mode in MULTIFD else {}


# So that no migration that waits for its switch ends in precopy because the rest fits the downtime limit: over a fast link it does
# at the end of the first pass. These two make the limit a thousand bytes; they limit neither bandwidth nor downtime.
NEVER_FITS = {"downtime-limit": 1, "avail-switchover-bandwidth": 1_000_000}


class Whimbrel:
    """How to start Whimbrel."""

    name = "whimbrel"
    # Reaching its first visit takes Whimbrel well under a second with a small working set.
    boot_seconds = 60

    def __init__(self, binary):
        self.binary = binary

    def version(self):
        return subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()

    def command(self, settings, cmdline, serial, qmp, incoming):
        return [
            self.binary, "run", "--memory", f"{settings.memory_mib}M", "--cpus", str(settings.cpus),
            "--serial", f"unix:{serial},server", "--qmp", f"unix:{qmp},server",
            *(["--incoming", "defer"] if incoming else ["--kernel", "builtin:test", "--cmdline", cmdline, "--paused"]),
        ]  # fmt: skip

    def capabilities(self, mode):
        """Those of both sides."""
        return ("events", "multifd") if mode in MULTIFD else ("events",)

    def parameters(self, mode):
        """What both sides' migration is told. The source turns to postcopy by itself, unless that is to be asked for."""
        if mode == "hybrid-asked":
            return NEVER_FITS
        return channels(mode) | ({} if mode in PRECOPY else {"x-postcopy-after": 0 if mode == "postcopy" else 1})

    def switches_by_itself(self, mode):
        return mode != "hybrid-asked"


class Qemu:
    """How to start QEMU."""

    name = "qemu"
    # Its firmware runs in ring 0, which a KVM without hardware underneath emulates slowly.
    boot_seconds = 180

    def __init__(self, binary, guest):
        self.binary = binary
        self.guest = guest

    def version(self):
        return subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]

    def command(self, settings, cmdline, serial, qmp, incoming):
        return [
            self.binary, "-accel", "kvm", "-cpu", "host,-arch-capabilities", "-m", f"{settings.memory_mib}M",
            "-smp", str(settings.cpus), "-nodefaults", "-nographic", "-serial", f"unix:{serial},server=on,wait=off",
            "-qmp", f"unix:{qmp},server=on,wait=off", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
            "-kernel", self.guest, "-append", cmdline, *(["-incoming", "defer"] if incoming else ["-S"]),
        ]  # fmt: skip

    def capabilities(self, mode):
        """Those of both sides. A precopy has none of postcopy's: with them QEMU looks at the dirty log every 50 ms."""
        postcopy = () if mode in PRECOPY else ("postcopy-ram", "postcopy-preempt")
        return ("events", *(("multifd",) if mode in MULTIFD else ()), *postcopy)

    def parameters(self, mode):
        """Its default limit of 128 MiB/s would be the only thing measured."""
        return {"max-bandwidth": 100 << 30} | (NEVER_FITS if mode in AFTER_A_PASS else {}) | channels(mode)

    def switches_by_itself(self, mode):
        return False


class Vm:
    """A running VMM, with its serial port and its QMP socket connected before the guest says its first word."""

    def __init__(self, loop, vmm, case, incoming, link=None):
        self.loop = loop
        self.vmm = vmm
        role = "destination" if incoming else "source"
        self.name = f"the {role}"
        self.serial = self.qmp = self.process = None
        self.directory = tempfile.mkdtemp(prefix="compare_modes.")
        try:
            self._start(case, incoming, link.within(role) if link else [])
        except BaseException:
            self.end()
            raise

    def _start(self, case, incoming, within):
        serial, qmp = self.path("serial"), self.path("qmp")
        with open(self.path("log"), "wb") as log:
            command = self.vmm.command(case.settings, case.settings.cmdline(case.workload), serial, qmp, incoming)
            self.process = subprocess.Popen(within + command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.serial = self._connect(Serial, serial, "serial port")
        self.qmp = self._connect(Qmp, qmp, "QMP socket")
        self._set_up(case.mode)
        # What the VMM takes before its guest runs.
        self.own_mib = self.memory_mib("VmRSS")

    def path(self, name):
        """A file of this VM's own."""
        return os.path.join(self.directory, name)

    def _connect(self, kind, path, what):
        # A socket that appears cannot be awaited without inotify, which Python does not offer.
        deadline = time.monotonic() + 30
        while True:
            try:
                return kind(self.loop, path, f"{what} of {self.name}")
            except OSError as error:
                if self.process.poll() is not None:
                    raise RunFailed(f"{self.vmm.name} ended with status {self.process.returncode}: {self.last_words()}") from error
                if time.monotonic() > deadline:
                    raise RunFailed(f"{self.vmm.name} offers no {what}: {error.strerror}") from error
            time.sleep(0.01)

    def _set_up(self, mode):
        known = {it["capability"] for it in self.qmp.execute("query-migrate-capabilities")}
        if mode in MULTIFD and "multifd" not in known:
            raise RunSkipped(f"{self.vmm.name} has no multifd channels")
        wanted = [{"capability": name, "state": True} for name in self.vmm.capabilities(mode) if name in known]
        self.qmp.execute("migrate-set-capabilities", capabilities=wanted)
        parameters = settable(self.vmm.parameters(mode), self.qmp.execute("query-migrate-parameters"))
        if parameters:
            self.qmp.execute("migrate-set-parameters", **parameters)

    def cpu_seconds(self):
        """The processor time of the whole process so far, its virtual CPUs included."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def memory_mib(self, field):
        """The memory of the process: VmRSS is what it has now, VmHWM the most that it ever had."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8", errors="replace") as text:
            return status_mib(text.read(), field)

    def last_words(self):
        """The last line that the VMM wrote."""
        with open(self.path("log"), encoding="utf-8", errors="replace") as log:
            lines = [line.strip() for line in log if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def end(self):
        """Ends the process and removes its files."""
        for channel in (self.serial, self.qmp):
            if channel is not None:
                self.loop.remove(channel)
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def settable(wanted, known):
    """What can be set of what is wanted: QEMU before 8.2 has no avail-switchover-bandwidth, and does with the downtime limit."""
    return {name: value for name, value in wanted.items() if name in known or name != "avail-switchover-bandwidth"}


def status_mib(text, field):
    """A field of /proc/PID/status, in MiB."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise ValueError(f"there is no {field}")
