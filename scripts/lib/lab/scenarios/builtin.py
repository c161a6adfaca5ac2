"""Scenario 0: Whimbrel's own test guest. It needs nothing of Linux: if it fails, the lab or the migration itself is broken."""

import dataclasses

from .. import disk
from ..guest import Guest
from ..progress import LabFailed


def run(bench, mode):
    """The test guest moves, and finds every byte right."""
    plan = bench.plan(builtin="builtin:test", words=("ws=16M order=rand write=50",), memory_mib=32)
    guest = bench.guest(plan)
    guest.console.line(lambda line: line.startswith("H "), 120, "a heartbeat")
    move = guest.move(mode, bench.hosts.b)
    guest.console.send("v\n")
    verdict = guest.console.line(lambda line: line.startswith("V "), 180, "the verdict")[2]
    if not verdict.endswith("errors=0"):
        raise LabFailed(f"the test guest says '{verdict}'")
    guest.at.quit()
    return [move]


def two_writers(bench, mode):
    """An image that a guest on one host writes to is refused on the other, until that guest has moved there."""
    plan = bench.plan(builtin="builtin:test", words=("ws=16M order=rand write=50",), memory_mib=32)
    image = f"{plan.name}.raw"
    plan = dataclasses.replace(plan, disk=bench.share(disk.make("raw", image, bench.folder), image))
    guest = bench.guest(plan)
    guest.console.line(lambda line: line.startswith("H "), 120, "a heartbeat")
    _refused(plan, bench.hosts.b)
    move = guest.move(mode, bench.hosts.b)
    _refused(plan, bench.hosts.a)
    guest.at.quit()
    return [move]


def _refused(plan, host):
    """Whimbrel must not start with an image that is in use."""
    try:
        second = Guest(plan, host)
    except LabFailed as why:
        if "another process" not in str(why):
            raise LabFailed(f"a second guest with the same disk was refused on host {host.name}, but not for its lock: {why}") from why
        return
    second.end()
    raise LabFailed(f"two guests had one disk: the one on host {host.name} was not refused")
