"""An emulated host: a whole machine by QEMU's TCG, with SVM, so that KVM in it is the real kvm-amd."""

import shutil
import subprocess
import time

from .agent import Hand
from .progress import LabFailed

QEMU = "qemu-system-x86_64"
# What a kernel says that is at its end.
COMPLAINTS = ("Kernel panic", "BUG:", "Oops", "soft lockup", "rcu: INFO")


class Machine:
    """One host. `start` it, wait until it is `ready`, give it commands by `hand`, and `end` it."""

    def __init__(self, name, address, switchboard, folder, memory_mib=2048, cpus=2, tsc_khz=None, disk=None):
        self.name = name
        self.address = address
        self.hand = Hand(switchboard, name)
        self.switchboard = switchboard
        self.folder = folder
        self.memory_mib = memory_mib
        self.cpus = cpus
        self.tsc_khz = tsc_khz
        self.disk = disk
        self.process = None
        self.began = None

    def start(self, kernel, initrd, port=None):
        """Switches the machine on. `port` is the socket that its card on the lab's network sends frames through; without one
        it has a card that nobody hears."""
        self.folder.mkdir(parents=True, exist_ok=True)
        image = self.path("initrd")
        image.write_bytes(initrd)
        self.switchboard.expect(self.name)
        self.began = time.monotonic()
        with open(self.path("qemu.log"), "wb") as log:
            command = [*dies_with_the_lab(), *self._command(kernel, image, port)]
            kept = [port.fileno()] if port else []
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=kept)
        if port:
            port.close()

    def _command(self, kernel, image, port):
        told = {"name": self.name, "address": self.address, "agent": f"10.0.2.2:{self.switchboard.port}", "token": self.switchboard.token}
        words = ["console=ttyS0", "quiet", "panic=-1", "mitigations=off", "random.trust_cpu=on", "ipv6.disable=1", *self._clock()]
        words += [f"lab.{key}={value}" for key, value in told.items()]
        return [
            QEMU, "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,+svm,-la57", "-machine", "q35,hpet=off", "-m", f"{self.memory_mib}M", "-smp", str(self.cpus),
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{self.path('console')}",
            # A triple fault is told of nowhere else.
            "-d", "cpu_reset", "-D", str(self.path("resets")),
            "-device", "virtio-rng-pci", "-netdev", "user,id=control", "-device", "virtio-net-pci,netdev=control,romfile=",
            "-netdev", f"dgram,id=lab,local.type=fd,local.str={port.fileno()}" if port else "hubport,id=lab,hubid=0",
            # Large frames: what passes them on costs time by the frame.
            "-device", f"virtio-net-pci,netdev=lab,romfile=,host_mtu=60000,mac={self.mac()}",
            "-kernel", str(kernel), "-initrd", str(image), "-append", " ".join(words),
            *(["-drive", f"file={self.disk},format=raw,if=virtio"] if self.disk else []),
        ]  # fmt: skip

    def _clock(self):
        """The emulated counter is the real one, the same on all processors and hosts, but the kernel could not know. What it would
        measure early, on a busy machine, is far off; it may refine what it is told."""
        return ["tsc=reliable", f"tsc_early_khz={self.tsc_khz}"] if self.tsc_khz else []

    def mac(self):
        """The address of its card on the lab's network."""
        return f"52:54:00:aa:00:{int(self.address.rpartition('.')[2]):02x}"

    def path(self, name):
        """A file of this machine's own, here."""
        return self.folder / f"{self.name}.{name}"

    def ready(self, seconds=120):
        """Waits until the machine takes commands, and returns how long that took since it was switched on."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            line = self.switchboard.line(self.name, 0.5)
            if line is not None:
                line.close()
                return time.monotonic() - self.began
        raise LabFailed(f"host {self.name} was not ready after {seconds} s: {self.death() or 'its QEMU still runs'}: {self.last_words()}")

    def death(self):
        """How its QEMU ended; nothing while it runs. One that ended by itself was an emulated machine that reset itself."""
        status = self.process.poll()
        return "" if status is None else f"its QEMU ended with status {status}"

    def fault(self):
        """What is wrong with it, in half a sentence, if it is at its end though nobody switched it off."""
        if death := self.death():
            return f"{death}: {self.last_words()}"
        lines = self.path("console").read_text(errors="replace").splitlines()
        if complaint := next((line.strip() for line in lines if any(word in line for word in COMPLAINTS)), None):
            return f"its kernel says '{complaint}'"
        try:
            self.hand.check("true", seconds=120)
        except LabFailed as why:
            return str(why)
        return ""

    def last_words(self):
        """The last line of QEMU's or the console's, for errors."""
        for name in ("qemu.log", "console"):
            if self.path(name).exists():
                lines = self.path(name).read_text(errors="replace").split("\n")
                told = [line.strip() for line in lines if line.strip()]
                if told:
                    return told[-1]
        return "it said nothing"

    def end(self):
        """Switches the machine off, as pulling its plug would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.path("initrd").unlink(missing_ok=True)


def version():
    """QEMU's name and version."""
    told = subprocess.run([QEMU, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return "QEMU " + told.split(" version ")[-1].split(" ")[0]


def dies_with_the_lab():
    """What a command line begins with so that the kernel ends it when the lab dies without a chance to do so."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
