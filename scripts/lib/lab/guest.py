"""A guest of Whimbrel's: the process it runs in, and the guest itself, wherever it has moved to."""

import itertools
import shlex
from dataclasses import dataclass, field

from .channel import Console, Qmp, is_complaint
from .progress import LabFailed

# quiet: each byte on the console costs time.
KERNEL_WORDS = "console=ttyS0 quiet panic=-1 mitigations=off"
PORTS = itertools.count(4000)
# A Linux host needs about 5 s for it, alone.
BOOT_SECONDS = 240
MOVE_SECONDS = 480

# How long the guest may stand still at the end of a precopy: everything in the lab is slow, the network too.
DOWNTIME_LIMIT_MS = 1500
MODES = {
    "precopy": {"x_postcopy_after": -1},
    "postcopy": {"x_postcopy_after": 0},
    "hybrid": {"x_postcopy_after": 1},
}


@dataclass(frozen=True)
class Plan:
    """What a guest is to be."""

    name: str
    # Which of the taps, addresses and so on is its own: guests of one time differ in it.
    number: int = 0
    memory_mib: int = 192
    cpus: int = 1
    # The programs that run in it, and words for its kernel.
    programs: tuple = ()
    words: tuple = ()
    disk: str = ""
    disk_format: str = "raw"
    net: bool = False
    rng: bool = False
    balloon: bool = False
    # A virtio console, which the guest's program of that name talks on, beside the serial port.
    console: bool = False
    # A built-in kernel; otherwise Linux is in `boot`, a folder of the host.
    builtin: str = ""
    boot: str = "/boot"

    def mac(self):
        """The address of its network card."""
        return f"52:54:00:77:00:{self.number:02x}"

    def address(self):
        """Its IPv4 address."""
        return f"192.168.77.{100 + self.number}"

    def arguments(self):
        """Whimbrel's arguments that make such a machine."""
        told = [f"lab.run={','.join(self.programs)}", f"lab.address={self.address()}", *(["lab.disk=1"] if self.disk else []), *self.words]
        linux = ["--kernel", f"{self.boot}/vmlinuz", "--initrd", f"{self.boot}/initrd", "--cmdline", " ".join([KERNEL_WORDS, *told])]
        words = ["--kernel", self.builtin, "--append", " ".join(self.words)] if self.builtin else linux
        words += ["--memory", f"{self.memory_mib}M", "--cpus", str(self.cpus), "--name", self.name]
        words += ["--disk", f"path={self.disk},format={self.disk_format}"] if self.disk else []
        words += ["--net", f"tap=tap{self.number},mac={self.mac()}"] if self.net else []
        words += ["--rng"] if self.rng else []
        words += ["--balloon"] if self.balloon else []
        return words


class Process:
    """A running Whimbrel on a host."""

    def __init__(self, host, plan, more=()):
        self.host = host
        # Its ends of the guest's serial port and, if it has one, virtio console.
        self.port = self.console = self.hvc = None
        self.said = bytearray()
        folder = f"{host.folder}/{plan.name}.{next(PORTS)}"
        serial, qmp = f"{folder}/serial", f"{folder}/qmp"
        words = ["whimbrel", "run", *plan.arguments(), "--serial", f"unix:{serial},server", "--qmp", f"unix:{qmp},server", *more]
        words += ["--console", f"unix:{folder}/hvc,server"] if plan.console else []
        self.command = shlex.join(words)
        # A file on the host that holds the process's number.
        self.number = f"{folder}/pid"
        # A system call that the sandbox's lists forgot ends the process: it is to be seen.
        begin = f"mkdir -p {folder} && echo $$ >{self.number} && WHIMBREL_SECCOMP=kill exec {self.command}"
        self.job = host.hand.begin(begin, lambda _, data: self.said.extend(data))
        try:
            self.serial = self._connect(serial)
            self.virtio_console = self._connect(f"{folder}/hvc") if plan.console else None
            self.qmp = Qmp(self._connect(qmp), f"{plan.name}'s process on host {host.name}")
            self.qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        except LabFailed as why:
            # One that refuses to run says why as it ends.
            self.job.wait(3)
            self.end()
            raise LabFailed(f"{why}; Whimbrel said: {self.last_words()}") from why

    def _connect(self, path):
        return self.host.hand.connect(path, 120, lambda: self.job.status is not None)

    def last_words(self):
        """Its last line of output, for errors."""
        lines = self.said.decode(errors="replace").strip().split("\n")
        return lines[-1].strip() or "nothing"

    def resident_mib(self):
        """How much of the host's memory it has: the guest's, as far as it is there, and little else."""
        told = self.host.hand.check(f"grep VmRSS: /proc/$(cat {self.number})/status")
        return int(told.split()[1]) >> 10

    def exit_status(self, seconds=120):
        """Waits for its end."""
        status = self.job.wait(seconds)
        if status is None:
            raise LabFailed(f"{self.qmp.name} did not end within {seconds} s")
        return status

    def quit(self):
        """Ends it in good order."""
        self.qmp.execute("quit")
        if status := self.exit_status():
            raise LabFailed(f"{self.qmp.name} ended with status {status}: {self.last_words()}")

    def end(self):
        """Ends it, whatever it is doing."""
        self.job.end()


@dataclass
class Move:
    """What one migration cost, seconds all of them. The blackouts are seen from outside."""

    mode: str
    total: float
    downtime: float
    # Both ends of the guest's serial port, if it says enough there for a blackout to be seen.
    ends: tuple = ()
    ping_gap: float = None
    ping_lost: int = None
    notes: list = field(default_factory=list)

    @property
    def console_blackout(self):
        """From the last byte of the source to the first of the destination."""
        last, first = (self.ends[0].last, self.ends[1].first) if self.ends else (None, None)
        return first - last if first and last else None


class Guest:
    """One guest, wherever it is."""

    def __init__(self, plan, host, *more):
        self.plan = plan
        self.console = Console(f"guest {plan.name}")
        self.hvc = Console(f"the virtio console of guest {plan.name}")
        self.processes = []
        self.at = self._process(host, more)

    def _process(self, host, more):
        process = Process(host, self.plan, more)
        self.processes.append(process)
        process.console = self.console.attach(process.serial)
        if process.virtio_console:
            process.hvc = self.hvc.attach(process.virtio_console)
        return process

    def ready(self, seconds=BOOT_SECONDS):
        """Waits until it has booted: the number of the line that says so."""
        return self.console.line(lambda line: line.startswith("guest: ready"), seconds, f"guest {self.plan.name} to be ready")[0]

    def numbers(self, program):
        """The numbers that a program has printed so far, with their times."""
        words = ((now, line.split(" ")) for now, line in self.console.lines())
        return [(now, int(it[1])) for now, it in words if it[0] == program and len(it) > 1 and it[1].isdigit()]

    def reaches(self, program, number, seconds=240):
        """Waits until a program has printed more than that number."""
        beyond = lambda line: (words := line.split(" "))[0] == program and len(words) > 1 and words[1].isdigit() and int(words[1]) > number
        return self.console.line(beyond, seconds, f"'{program}' to come past {number}")[1]

    def prepare_move(self, host):
        """Starts the process that the guest is to move to, and returns it."""
        process = self._process(host, ["--incoming", "defer"])
        process.port = next(PORTS)
        process.qmp.execute("migrate-incoming", uri=f"tcp:0.0.0.0:{process.port}")
        return process

    def begin_move(self, mode, destination, **parameters):
        """Starts a migration to a prepared process."""
        self.at.qmp.execute("migrate-set-parameters", downtime_limit=DOWNTIME_LIMIT_MS, **MODES[mode], **parameters)
        # A guest that comes back has gone before.
        self.at.qmp.events.clear()
        self.at.qmp.execute("migrate", uri=f"tcp:{destination.host.address}:{destination.port}")

    def end_move(self, mode, destination, seconds=MOVE_SECONDS):
        """Waits for the migration's end, lets the source go, and returns the figures."""
        source = self.at
        ending = source.qmp.wait(lambda: _ending(source.qmp), seconds, f"the migration of {self.plan.name} to end")
        told = source.qmp.execute("query-migrate")
        if ending != "completed":
            reason = told.get("error-desc", "without a reason")
            raise LabFailed(f"the migration of {self.plan.name} ended as {ending}: {reason}; its destination said: {destination.last_words()}")
        self.at = destination
        destination.qmp.event("RESUME", 120)
        source.quit()
        return Move(mode, told["total-time"] / 1000, told["downtime"] / 1000, (source.console, destination.console))

    def move(self, mode, host, **parameters):
        """A whole migration."""
        destination = self.prepare_move(host)
        self.begin_move(mode, destination, **parameters)
        return self.end_move(mode, destination)

    def power_down(self, seconds=300):
        """Presses the power button, and waits until the guest has shut itself down and its process has ended."""
        lines = [line for _, line in self.console.lines()]
        boot = max((number for number, line in enumerate(lines) if line.startswith("guest: init")), default=0)
        self.console.line(lambda line: "button waits" in line, 240, "the guest to listen to its power button", after=boot)
        self.at.qmp.execute("system_powerdown")
        status = self.at.exit_status(seconds)
        if status:
            raise LabFailed(f"{self.at.qmp.name} ended with status {status} after the guest's shutdown: {self.at.last_words()}")

    def complaints(self):
        """Lines of the console that tell of an error."""
        return [line for _, line in self.console.lines() if is_complaint(line)]

    def end(self):
        """Leaves nothing of it running."""
        for process in self.processes:
            process.end()


def _ending(qmp):
    """How a migration ended, once it has."""
    told = [data.get("status") for _, name, data in qmp.events if name == "MIGRATION"]
    return next((it for it in told if it in ("completed", "failed", "cancelled", "postcopy-paused")), None)
