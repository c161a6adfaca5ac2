"""A run of the lab: everything built, hosts booted, cases worked on, the table printed."""

import contextlib
import os
import random
import time

from . import bench, build, catalogue, docs, images, table
from .debian import Packages
from .hosts import Emulated
from .kernel import Kernel
from .native import Native
from .progress import LabFailed

# Cases at a time: while one waits for its guest, the other computes.
SLOTS = 2
# How many sets of hosts are replaced: the emulation of SVM is not without faults (docs/lab.md).
MOST_FAULTS = 3


def run(options, progress):
    """Runs what the options say; the exit status."""
    chosen = catalogue.full() if options.full or options.scenario else catalogue.quick()
    cases = [case for case in chosen if case.covers(set(options.scenario), set(options.mode))]
    if not cases:
        raise LabFailed("there is no such case; see 'scripts/lab --list'")
    if options.list:
        print("\n".join(bench.label(case) for case in cases))
        return 0
    course = Course(options, cases, progress)
    outcomes = course.run()
    text = table.table(outcomes)
    (course.folder / "table.md").write_text(text + "\n")
    if options.docs:
        docs.write(text, course.setting())
    print(text)
    for outcome in outcomes:
        if outcome.failure:
            print(f"FAILED: {bench.label(outcome.case)}: {outcome.failure}")
    for fault in course.faults:
        print(f"hosts were booted anew, and what they had been at was begun again: {fault}")
    print(f"table.md, the consoles and Whimbrel's words are in {course.folder}")
    print(table.verdict(outcomes), flush=True)
    return 1 if any(outcome.failure for outcome in outcomes) else 0


class Course:
    """All cases, on one set of hosts as long as those live, and on a new one after that."""

    def __init__(self, options, cases, progress):
        self.options = options
        self.cases = dict(enumerate(cases))
        self.progress = progress
        self.seed = options.seed if options.seed is not None else random.randrange(1 << 32)
        self.folder = options.cache / "logs" / time.strftime(f"%Y%m%d-%H%M%S-{os.getpid()}")
        self.outcomes = {}
        # Why hosts had to be booted anew, a sentence each.
        self.faults = []
        self.began = time.monotonic()
        self.description = ""

    def run(self):
        """The outcomes of all cases, in their order."""
        while len(self.outcomes) < len(self.cases):
            # Each set of hosts has its own logs.
            folder = self.folder / f"hosts-{len(self.faults) + 1}"
            folder.mkdir(parents=True)
            hosts = Native(folder) if self.options.native else Emulated(folder)
            try:
                boot(hosts, self.options, self.progress)
                self._work(hosts, folder)
            finally:
                hosts.end()
        return [self.outcomes[number] for number in self.cases]

    def setting(self):
        """What the run was, in a sentence."""
        again = f"; hosts booted anew {len(self.faults)} times" if self.faults else ""
        return docs.setting(self.description + again, time.monotonic() - self.began, self.options.slots, self.seed)

    def _work(self, hosts, folder):
        """Works on what is left, until all is done or a host is at its end: then what failed is no case's fault."""
        left = {number: case for number, case in self.cases.items() if number not in self.outcomes}
        self.progress.say(f"{len(left)} cases, {self.options.slots} at a time; random seed {self.seed}")
        self.description = hosts.description()
        work = bench.run(left, hosts, self.options.slots, self.seed, folder, self.progress.say)
        with contextlib.closing(work) as outcomes:
            for number, outcome in outcomes:
                if outcome.failure and len(self.faults) < MOST_FAULTS and (fault := hosts.fault()):
                    self.faults.append(f"{fault}; meanwhile, {bench.label(outcome.case)}: {outcome.failure}")
                    self.progress.say(f"the hosts are booted anew: {fault}")
                    return
                self.outcomes[number] = outcome
                self.progress.say(f"{len(self.outcomes)}/{len(self.cases)} {bench.label(outcome.case)}: {_summary(outcome)}")
        self.progress.say(f"network: {hosts.network.traffic()}")


def boot(hosts, options, progress, more=None):
    """Builds what is missing and boots the hosts, with `more` programs in them, by name."""
    packages = Packages(options.cache, progress)
    kernel, busybox = Kernel(packages.kernel()), packages.busybox()
    progress.say("building")
    programs = build.lab_programs()
    whimbrel = options.binary or build.whimbrel(options.dev)
    guest = images.guest(kernel, busybox, {"lab-guest": programs["lab-guest"]})
    progress.say("booting the hosts")
    in_hosts = {name: programs[name] for name in ("lab-agent", "lab-clock", "lab-lock")}
    in_hosts |= {"whimbrel": whimbrel, **(more or {})}
    hosts.start(kernel, busybox, in_hosts, {"vmlinuz": kernel.image, "initrd": guest}, build.tsc_khz(programs))
    progress.say("the hosts are ready")


def _summary(outcome):
    """An outcome in half a line."""
    if outcome.failure:
        return f"FAILED after {outcome.seconds:.0f} s: {outcome.failure}"
    notes = [note for move in outcome.moves for note in move.notes]
    cells = dict(zip(table.HEAD, table.row(outcome)))
    figures = [f"{name} {cells[name]}" for name in table.HEAD[4:8] if cells[name] != "-"]
    return f"ok in {outcome.seconds:.0f} s; " + "; ".join([*figures, *notes[:4]])
