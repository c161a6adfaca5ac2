"""What boots: kernels of Debian's archive, each started by Whimbrel in an emulated host as far as it gets; the table of docs/boot.md."""

import gzip
import lzma
import os
import re
import struct
import threading
import time
from dataclasses import dataclass

from . import build, docs, images
from .agent import Switchboard
from .cpio import Archive
from .debian import Packages
from .kernel import Kernel
from .machine import Machine, version
from .progress import LabFailed

PAGE = build.ROOT / "docs" / "boot.md"
MARKS = ("<!-- generated: scripts/lab boots --docs -->", "<!-- end -->")
HEAD = ["kernel", "from", "started by", "how far it gets"]
# What a Linux gets as its initramfs' init.
INIT = b"#!/bin/busybox sh\necho \"init runs on $(/bin/busybox uname -r)\"\n/bin/busybox poweroff -f\n"
# How long a kernel may take to get where it should; everything is emulated.
LIMIT = 240
# How long one that says nothing is left alone.
QUIET = 20


@dataclass(frozen=True)
class Candidate:
    """A kernel, where it comes from, and what is expected of it."""

    name: str
    package: str
    # In the package.
    path: str
    # The protocol that starts it, or nothing if it is refused.
    protocol: str
    # On its console, or of Whimbrel's refusal: a regular expression.
    says: str
    # What that means, for the table; of a refusal its own sentence stands there.
    reached: str = ""
    arguments: tuple = ()
    # What makes the kernel of the package's file.
    unpack: object = bytes
    initrd: bool = False
    # Of one that says nothing: what the monitor is asked after a while.
    asked: str = ""


def vmlinux(bzimage):
    """The ELF in a bzImage that xz has packed, by its header (Documentation/arch/x86/boot.rst)."""
    setup = (bzimage[0x1F1] or 4) * 512 + 512
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    # The length of the ELF follows what is packed; the decompressor leaves it alone.
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(bzimage[setup + offset : setup + offset + length])


def linux(flavour, package, protocol="bzImage, 64-bit", unpack=bytes):
    kind = "vmlinux" if unpack is vmlinux else "vmlinuz"
    return Candidate(
        f"Linux 6.1, {flavour}, {kind}", package, "boot/vmlinuz-*", protocol, r"init runs on \S+(?=\s)", "init of an initramfs",
        ("--cmdline", "console=ttyS0 noxsave panic=-1"), unpack, initrd=True,
    )  # fmt: skip


CANDIDATES = [
    linux("cloud", "linux-image-cloud-amd64"),
    linux("generic", "linux-image-amd64"),
    linux("rt", "linux-image-rt-amd64"),
    linux("generic", "linux-image-amd64", "PVH, 64-bit ELF", vmlinux),
    Candidate("memtest86+, x64", "memtest86+", "boot/memtest86+x64.bin", "bzImage, 64-bit", r"Memtest86\+", "its screen on the serial port",
              ("--cmdline", "console=ttyS0,115200")),
    Candidate("memtest86+, x64, for EFI", "memtest86+", "boot/memtest86+x64.efi", "bzImage, 64-bit", r"Memtest86\+", "the same: it is both",
              ("--cmdline", "console=ttyS0,115200")),
    Candidate("GRUB for Xen's PVH", "grub-xen-host", "usr/lib/grub-xen/grub-i386-xen_pvh.bin", "PVH, 32-bit ELF", "rdi=0+40010000",
              "it looks for Xen in the CPUID leaves up to 0x40010000, finds none, and stands still", asked="info registers"),
    Candidate("memtest86+, ia32", "memtest86+", "boot/memtest86+ia32.bin", "", "no 64-bit entry"),
    Candidate("GRUB for Xen's PV", "grub-xen-host", "usr/lib/grub-xen/grub-x86_64-xen.bin", "", "no PVH entry note"),
    Candidate("Xen 4.17, as packed", "xen-hypervisor-4.17-amd64", "boot/xen-4.17-amd64.gz", "", "compressed with gzip"),
    Candidate("Xen 4.17, unpacked", "xen-hypervisor-4.17-amd64", "boot/xen-4.17-amd64.gz", "", "multiboot kernel", unpack=gzip.decompress),
    Candidate("Xen 4.17, for EFI", "xen-hypervisor-4.17-amd64", "boot/xen-4.17-amd64.efi", "", "EFI program"),
    Candidate("GNU Mach 1.8", "gnumach-image-1.8-486", "boot/gnumach-1.8-486.gz", "", "multiboot kernel", unpack=gzip.decompress),
    Candidate("iPXE", "ipxe", "boot/ipxe.lkrn", "", "no 64-bit entry"),
    Candidate("U-Boot, x86-64", "u-boot-qemu", "usr/lib/u-boot/qemu-x86_64/uboot.elf", "", "no PVH entry note"),
    Candidate("U-Boot, AArch64", "u-boot-qemu", "usr/lib/u-boot/qemu_arm64/uboot.elf", "", "AArch64"),
    Candidate("SeaBIOS", "seabios", "usr/share/seabios/bios-256k.bin", "", "neither an ELF"),
    Candidate("a kernel module", "linux-image-cloud-amd64", "lib/modules/*/kernel/drivers/block/virtio_blk.ko", "", "kernel module"),
]  # fmt: skip


def run(options, progress):
    """Starts them all; the exit status."""
    if options.list:
        print("\n".join(candidate.name for candidate in CANDIDATES))
        return 0
    packages = Packages(options.cache, progress)
    kernels = {candidate: kernel_of(candidate, packages) for candidate in CANDIDATES}
    origins = {candidate: packages.origin(candidate.package) for candidate in CANDIDATES}
    switchboard = Switchboard()
    folder = options.cache / "logs" / time.strftime(f"%Y%m%d-%H%M%S-{os.getpid()}-boots")
    machine = Machine("a", "192.168.77.11", switchboard, folder, 3072, options.cpus)
    try:
        boot_host(machine, packages, options, progress)
        rows, failed = [], 0
        for number, candidate in enumerate(CANDIDATES):
            machine.hand.put(kernels[candidate], "/tmp/kernel")
            began = time.monotonic()
            said, reached = started(machine.hand, candidate)
            (folder / f"{number:02}.console").write_text(said)
            progress.say(f"{number + 1}/{len(CANDIDATES)} {candidate.name}: {reached or 'FAILED'} ({time.monotonic() - began:.0f} s)")
            failed += not reached
            rows.append([candidate.name, origins[candidate], candidate.protocol or "refused", reached or "FAILED"])
    finally:
        machine.end()
        switchboard.close()
    text = "\n".join("| " + " | ".join(row) + " |" for row in [HEAD, ["---"] * len(HEAD), *rows])
    setting = f"{time.strftime('%Y-%m-%d')}: a host emulated by {version()} (TCG, with SVM), Linux {machine.release} and kvm_amd in it."
    (folder / "table.md").write_text(text + "\n")
    print(f"{setting}\n\n{text}\nthe consoles are in {folder}")
    if options.docs:
        docs.write(text, setting, PAGE, MARKS)
    return 1 if failed else 0


def kernel_of(candidate, packages):
    """The kernel's bytes."""
    found = sorted(packages.folder(candidate.package).glob(candidate.path))
    if len(found) != 1:
        raise LabFailed(f"package {candidate.package} has {len(found)} files {candidate.path}")
    return candidate.unpack(found[0].read_bytes())


def boot_host(machine, packages, options, progress):
    """One host with Whimbrel in it, and what a Linux gets as its initramfs."""
    kernel, busybox = Kernel(packages.kernel()), packages.busybox()
    programs = build.lab_programs()
    whimbrel = options.binary or build.whimbrel(options.dev)
    archive = Archive()
    archive.folder("proc")
    archive.device("dev/console", 5, 1)
    archive.copy(busybox, "bin/busybox")
    archive.link("bin/sh", "busybox")
    archive.file("init", INIT, 0o755)
    initrd = images.host(kernel, busybox, {"whimbrel": whimbrel, "lab-agent": programs["lab-agent"]}, extra=[(archive.bytes(), "boot/initrd")])
    progress.say("booting the host")
    machine.tsc_khz = build.tsc_khz(programs)
    machine.start(kernel.image, initrd)
    machine.ready()
    machine.release = kernel.version


def started(hand, candidate, limit=LIMIT):
    """(all that was said, how far it got): nothing if not as far as expected."""
    text = tried(hand, candidate, limit)
    if not text:
        # A command that the agent lost; it says a word of every one that it begins.
        text = tried(hand, candidate, limit)
    return text, reached(candidate, text)


def tried(hand, candidate, limit):
    """All that was said until it got as far as expected, ended, or had its time."""
    places = ["--serial", "null", "--monitor", "stdio"] if candidate.asked else ["--serial", "stdio"]
    words = ["whimbrel", "run", "--kernel", "/tmp/kernel", "--memory", "512M", *places, *candidate.arguments]
    if candidate.initrd:
        words += ["--initrd", "/boot/initrd"]
    command = " ".join(f"'{word}'" for word in words)
    said, seen = bytearray(), threading.Event()

    def take(_, content):
        said.extend(content)
        if re.search(candidate.says, plain(said)):
            seen.set()

    # Its standard input stays open for as long as it runs.
    given = f"(sleep {QUIET}; echo {candidate.asked}; sleep {limit})" if candidate.asked else f"sleep {limit}"
    job = hand.begin(f"echo begins; {command} </dev/null" if not candidate.protocol else f"echo begins; {given} | exec {command}", take)
    try:
        began = time.monotonic()
        # One that has not said that it begins was lost.
        while not seen.wait(0.2) and job.status is None and time.monotonic() < began + (limit if said else 30):
            pass
    finally:
        job.end()
    return plain(said)


def reached(candidate, text):
    """How far a kernel got, by what was said; nothing if not as far as expected."""
    found = re.search(candidate.says, text)
    if not found:
        return ""
    if candidate.protocol:
        return candidate.reached if candidate.asked else f"{candidate.reached} (\"{found[0].strip()}\")"
    sentence = next((line for line in text.splitlines() if line.startswith("whimbrel: kernel /tmp/kernel")), "")
    return sentence.removeprefix("whimbrel: kernel /tmp/kernel ")


def plain(said):
    """Text without the escape sequences of a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode(errors="replace"))
