"""A run of the lab: everything built, hosts booted, cases worked on, the table printed."""

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


def run(options, progress):
    """Runs what the options say; the exit status."""
    chosen = catalogue.full() if options.full or options.scenario else catalogue.quick()
    cases = [case for case in chosen if case.covers(set(options.scenario), set(options.mode))]
    if not cases:
        raise LabFailed("there is no such case; see 'scripts/lab --list'")
    if options.list:
        print("\n".join(bench.label(case) for case in cases))
        return 0
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    folder = options.cache / "logs" / time.strftime(f"%Y%m%d-%H%M%S-{os.getpid()}")
    folder.mkdir(parents=True)
    began = time.monotonic()
    hosts = Native(folder) if options.native else Emulated(folder)
    try:
        boot(hosts, options, progress)
        progress.say(f"{len(cases)} cases, {options.slots} at a time; random seed {seed}")
        outcomes = []
        for outcome in bench.run(cases, hosts, options.slots, seed, folder, progress.say):
            outcomes.append(outcome)
            progress.say(f"{len(outcomes)}/{len(cases)} {bench.label(outcome.case)}: {_summary(outcome)}")
        progress.say(f"network: {hosts.network.traffic()}")
        description = hosts.description() if options.docs else ""
        for fault in hosts.faults():
            progress.say(fault)
    finally:
        hosts.end()
    outcomes.sort(key=lambda it: cases.index(it.case))
    text = table.table(outcomes)
    (folder / "table.md").write_text(text + "\n")
    if options.docs:
        docs.write(text, docs.setting(description, time.monotonic() - began, options.slots, seed))
    print(text)
    for outcome in outcomes:
        if outcome.failure:
            print(f"FAILED: {bench.label(outcome.case)}: {outcome.failure}")
    print(f"table.md, the consoles and Whimbrel's words are in {folder}")
    print(table.verdict(outcomes), flush=True)
    return 1 if any(outcome.failure for outcome in outcomes) else 0


def boot(hosts, options, progress, more=None):
    """Builds what is missing and boots the hosts, with `more` programs in them, by name."""
    packages = Packages(options.cache, progress)
    kernel, busybox = Kernel(packages.kernel()), packages.busybox()
    progress.say("building")
    programs = build.lab_programs()
    whimbrel = options.binary or build.whimbrel()
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
