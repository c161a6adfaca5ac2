"""`run`, `boot-linux` and `shell`: one emulated host, for trying things by hand."""

import os
import sys
import threading
from pathlib import Path

from . import build, images
from .agent import Switchboard
from .debian import Packages
from .kernel import Kernel
from .machine import Machine
from .progress import LabFailed

# What boot-linux says to Whimbrel if it is not told anything.
BOOT = ["run", "--kernel", "/boot/vmlinuz", "--initrd", "/boot/initrd", "--cmdline", "console=ttyS0 noxsave", "--serial", "stdio"]


class Workshop:
    """One host with a Whimbrel in it, and the guest's kernel and initrd in its /boot."""

    def __init__(self, options, progress):
        self.options = options
        self.progress = progress
        self.switchboard = Switchboard()
        self.machine = Machine("a", "192.168.77.11", self.switchboard, options.cache / "logs" / str(os.getpid()), options.memory, options.cpus)

    def start(self):
        """Builds what is missing, and boots the host."""
        packages = Packages(self.options.cache, self.progress)
        kernel, busybox = Kernel(packages.kernel()), packages.busybox()
        programs = build.lab_programs()
        whimbrel = self.options.binary or build.whimbrel(self.options.dev)
        guest = images.guest(kernel, busybox, {"lab-guest": programs["lab-guest"]})
        extra = [(kernel.image, "boot/vmlinuz"), (guest, "boot/initrd"), *self.options.file]
        initrd = images.host(kernel, busybox, {"whimbrel": whimbrel, "lab-agent": programs["lab-agent"]}, extra=extra)
        self.progress.say(f"booting host a (initramfs {len(initrd) >> 20} MiB)")
        self.machine.tsc_khz = build.tsc_khz(programs)
        self.machine.start(kernel.image, initrd)
        self.progress.say(f"host a is ready after {self.machine.ready():.1f} s of its own")

    def run(self, command):
        """Runs a shell command in the host with this terminal's output, and returns its exit status."""
        streams = {"o": sys.stdout.buffer, "e": sys.stderr.buffer}

        def show(kind, content):
            streams[kind].write(content)
            streams[kind].flush()

        return self.machine.hand.stream(command, show, seconds=self.options.seconds)

    def shell(self):
        """Gives this terminal a shell in the host."""
        line = self.machine.hand.line()
        line.send("S", b"exec sh -i 2>&1")
        threading.Thread(target=_forward_input, args=(line,), daemon=True).start()
        while True:
            kind, content = line.receive()
            if kind == "x":
                return int(content)
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()

    def end(self):
        """Leaves nothing running."""
        self.machine.end()
        self.switchboard.close()
        self.progress.say(f"the host's console is in {self.machine.path('console')}")


def _forward_input(line):
    while data := os.read(0, 4096):
        line.give(data)
    line.end_input()


def file_pair(text):
    """LOCAL:PATH, a file to bring along."""
    local, _, place = text.partition(":")
    if not Path(local).is_file():
        raise LabFailed(f"there is no file {local}")
    return Path(local), place or f"root/{Path(local).name}"
