"""Which migrations are measured, and in which order."""

import math
from dataclasses import dataclass

MODES = {
    "precopy": "passes over memory until the rest fits the downtime limit (300 ms, the default of both)",
    "postcopy": "the destination runs at once, all memory follows",
    "hybrid": "one pass over memory, then postcopy",
    "hybrid-asked": "the same, the switch asked for with `migrate-start-postcopy` when each page has been sent once, of both VMMs",
    "single": "precopy over 1 multifd channel",
    "multifd": "precopy over 4 multifd channels",
    "hybrid-multifd": "hybrid, its pass over 4 multifd channels",
}
DEFAULT_MODES = ("precopy", "postcopy", "hybrid")
# Modes in which the destination's guest runs only when all memory is there.
PRECOPY = ("precopy", "single", "multifd")
# Modes that switch when each page has been sent once.
AFTER_A_PASS = ("hybrid", "hybrid-asked", "hybrid-multifd")
# Multifd channels that a mode is about; the others have what the VMM takes by itself.
MULTIFD = {"single": 1, "multifd": 4, "hybrid-multifd": 4}

WORKLOADS = {
    "calm": ("order=rand write=5 rate=20000", "20,000 visits a second to random pages, 5% write"),
    "hot": ("order=rand write=50", "random pages as fast as it can, 50% write"),
    "seq": ("order=seq write=50", "page after page as fast as it can, 50% write"),
}

TRANSPORTS = {"unix": "a unix socket", "tcp": "TCP over the loopback interface", "link": "a link between two network namespaces"}
DEFAULT_TRANSPORTS = ("unix", "tcp")

# Memory that a batch of booted guests leaves alone, in MiB.
RESERVE_MIB = 2048
# What a guest has besides what it visits.
BESIDE_MIB = 256


def mebibytes(size):
    """The MiB of a size such as 256M; of one in K, a part of them."""
    return int(size[:-1]) * {"K": 1 / 1024, "M": 1, "G": 1024}[size[-1]]


def sized(working_set):
    """(MiB of RAM, working set) of a guest that has a little more than it visits."""
    return math.ceil(mebibytes(working_set)) + BESIDE_MIB, working_set


@dataclass(frozen=True)
class Settings:
    """A guest's size."""

    memory_mib: int
    working_set: str
    cpus: int

    def cmdline(self, workload):
        """The guest's words. The beat is fixed, or each VMM's guest would choose its own and be disturbed differently."""
        words, _ = WORKLOADS[workload]
        return f"ws={self.working_set} {words} cpus={self.cpus} beat_us=1000 beat_bytes=1"

    @property
    def working_set_gib(self):
        return mebibytes(self.working_set) / 1024

    @property
    def working_set_bytes(self):
        return int(mebibytes(self.working_set) * (1 << 20))

    def __str__(self):
        return f"{self.working_set} {counted(self.cpus, 'vCPU')}"


def counted(number, what):
    """1 vCPU, 2 vCPUs."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@dataclass(frozen=True)
class Case:
    """One migration to measure. Runs that share all but the VMM are a pair."""

    transport: str
    workload: str
    mode: str
    settings: Settings
    rep: int
    vmm: str

    @property
    def pair(self):
        """What both runs of a pair have in common."""
        return (self.transport, self.workload, self.mode, self.settings, self.rep)

    @property
    def kind(self):
        """What is the same for all sizes."""
        return (self.transport, self.workload, self.mode)

    def __str__(self):
        return f"{self.transport} {self.workload} {self.mode} {self.settings} #{self.rep + 1} {self.vmm}"


@dataclass(frozen=True)
class Choice:
    """What is to be measured. The first size and the first number of vCPUs go through everything.

    What comes of more memory, or of more vCPUs, shows in one kind of migration as well as in all: the first chosen
    transport, and a hot guest that moves by postcopy, if these are chosen.
    """

    sizes: list
    cpus: list
    transports: list
    workloads: list
    modes: list
    reps: int

    @property
    def main(self):
        """The size that goes through everything."""
        return self._settings(self.sizes[0], self.cpus[0])

    @property
    def scaled(self):
        """The other sizes: each number of vCPUs with the first memory, each memory with the first number of vCPUs."""
        more_cpus = [self._settings(self.sizes[0], cpus) for cpus in self.cpus[1:]]
        return more_cpus + [self._settings(size, self.cpus[0]) for size in self.sizes[1:]]

    @property
    def scaled_kind(self):
        """(transport, workload, mode) of the migrations that the other sizes go through."""
        return self.transports[0], preferred("hot", self.workloads), preferred("postcopy", self.modes)

    @staticmethod
    def _settings(size, cpus):
        memory_mib, working_set = size
        return Settings(memory_mib, working_set, cpus)

    def batches(self, vmms):
        """Lists of cases of one size that boot together and are then measured one by one.

        Repetitions are the outermost loop, so that a change of the machine's mood meets all figures alike; the VMMs take
        turns, and who goes first takes turns too.
        """
        for rep in range(self.reps):
            order = vmms if rep % 2 == 0 else vmms[::-1]
            for transport in self.transports:
                for workload in self.workloads:
                    modes = [mode for mode in self.modes if converges(transport, workload, mode)]
                    yield [Case(transport, workload, mode, self.main, rep, vmm) for mode in modes for vmm in order]
            for settings in self.scaled if converges(*self.scaled_kind) else []:
                yield [Case(*self.scaled_kind, settings, rep, vmm) for vmm in order]


def preferred(name, chosen):
    return name if name in chosen else chosen[0]


def converges(transport, workload, mode):
    """Whether precopy can end at all: over a link, a guest that writes as fast as it can is always ahead of it."""
    return transport != "link" or mode not in PRECOPY or workload == "calm"


def at_once(available_mib, memory_mib):
    """How many booted guests fit beside a destination, or what its memory is warmed with before."""
    return (available_mib - RESERVE_MIB) // memory_mib - 1


def fitting(sizes, available_mib):
    """The sizes, (MiB of RAM, working set), of which two guests fit; and a sentence for each other."""
    fits, sentences = [], []
    for memory_mib, working_set in sizes:
        if at_once(available_mib, memory_mib) >= 1:
            fits.append((memory_mib, working_set))
        else:
            sentences.append(f"two machines of {memory_mib} MiB do not fit into the {available_mib} MiB of memory that are available")
    return fits, sentences
