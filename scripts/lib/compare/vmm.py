"""Whimbrel and QEMU, started alike: same guest, same memory, a serial port and a QMP socket each."""

import os
import shutil
import subprocess
import tempfile
import time

from .channels import Qmp, RunFailed, Serial

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Whimbrel:
    """How to start Whimbrel."""

    name = "whimbrel"
    # Reaching its first visit takes Whimbrel well under a second with a small working set.
    boot_seconds = 60
    capabilities = ("events",)

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

    def parameters(self, mode):
        """What the source's migration is told. It turns to postcopy by itself."""
        passes = {"precopy": -1, "postcopy": 0, "hybrid": 1}[mode]
        return {"x-postcopy-after": passes} if passes >= 0 else {}

    def switches_by_itself(self):
        return True


class Qemu:
    """How to start QEMU."""

    name = "qemu"
    # Its firmware runs in ring 0, which a KVM without hardware underneath emulates slowly.
    boot_seconds = 180
    capabilities = ("events", "postcopy-ram", "postcopy-preempt")

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

    def parameters(self, mode):
        """Its default limit of 128 MiB/s would be the only thing measured.

        Where the rest fits the downtime limit at the end of the first pass it completes at once, and over a fast link
        that is always; so hybrid needs a limit of 1 ms. With 0 it completes after the pass without looking at what is dirty.
        """
        return {"max-bandwidth": 100 << 30} | ({"downtime-limit": 1} if mode == "hybrid" else {})

    def switches_by_itself(self):
        return False


class Vm:
    """A running VMM, with its serial port and its QMP socket connected before the guest says its first word."""

    def __init__(self, loop, vmm, settings, cmdline, incoming):
        self.loop = loop
        self.vmm = vmm
        self.role = "destination" if incoming else "source"
        self.name = f"the {self.role}"
        self.serial = self.qmp = self.process = None
        self.directory = tempfile.mkdtemp(prefix="compare_modes.")
        try:
            self._start(settings, cmdline, incoming)
        except BaseException:
            self.end()
            raise

    def _start(self, settings, cmdline, incoming):
        serial, qmp = self.path("serial"), self.path("qmp")
        with open(self.path("log"), "wb") as log:
            command = self.vmm.command(settings, cmdline, serial, qmp, incoming)
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.serial = self._connect(Serial, serial, "serial port")
        self.qmp = self._connect(Qmp, qmp, "QMP socket")
        self._set_capabilities()

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

    def _set_capabilities(self):
        known = {it["capability"] for it in self.qmp.execute("query-migrate-capabilities")}
        wanted = [{"capability": name, "state": True} for name in self.vmm.capabilities if name in known]
        self.qmp.execute("migrate-set-capabilities", capabilities=wanted)

    def cpu_seconds(self):
        """The processor time of the whole process so far, its virtual CPUs included."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

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
