"""Which migrations are measured, and in which order."""

from dataclasses import dataclass

MODES = {
    "precopy": "passes over memory until the rest fits the downtime limit (300 ms, the default of both)",
    "postcopy": "the destination runs at once, all memory follows",
    "hybrid": "one pass over memory, then postcopy",
}

WORKLOADS = {
    "calm": ("order=rand write=5 rate=20000", "20,000 visits a second to random pages, 5% write"),
    "hot": ("order=rand write=50", "random pages as fast as it can, 50% write"),
    "seq": ("order=seq write=50", "page after page as fast as it can, 50% write"),
}

TRANSPORTS = {"unix": "a unix socket", "tcp": "TCP over the loopback interface"}


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    memory_mib: int
    working_set: str
    cpus: int

    def cmdline(self, workload):
        """The guest's words. The beat is fixed, or each VMM's guest would choose its own and be disturbed differently."""
        words, _ = WORKLOADS[workload]
        return f"ws={self.working_set} {words} cpus={self.cpus} beat_us=1000 beat_bytes=1"


@dataclass(frozen=True)
class Case:
    """One migration to measure. Runs that share all but the VMM are a pair."""

    transport: str
    workload: str
    mode: str
    rep: int
    vmm: str

    @property
    def pair(self):
        """What both runs of a pair have in common."""
        return (self.transport, self.workload, self.mode, self.rep)

    def __str__(self):
        return f"{self.transport} {self.workload} {self.mode} #{self.rep + 1} {self.vmm}"


def batches(transports, workloads, modes, reps, vmms):
    """Lists of cases that boot together and are then measured one by one.

    Repetitions are the outermost loop, so that a change of the machine's mood meets all figures alike; the VMMs take
    turns, and who goes first takes turns too.
    """
    for rep in range(reps):
        order = vmms if rep % 2 == 0 else vmms[::-1]
        for transport in transports:
            for workload in workloads:
                yield [Case(transport, workload, mode, rep, vmm) for mode in modes for vmm in order]
