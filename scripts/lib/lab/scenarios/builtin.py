"""Scenario 0: Whimbrel's own test guest. It needs nothing of Linux: if it fails, the lab or the migration itself is broken."""

from ..progress import LabFailed


def run(bench, mode):
    """The test guest moves, and finds every byte right."""
    plan = bench.plan(kernel="builtin:test", words=("ws=16M order=rand write=50",), memory_mib=32)
    guest = bench.guest(plan)
    guest.console.line(lambda line: line.startswith("H "), 30, "a heartbeat")
    move = guest.move(mode, bench.hosts.b)
    guest.console.send("v\n")
    verdict = guest.console.line(lambda line: line.startswith("V "), 60, "the verdict")[2]
    if not verdict.endswith("errors=0"):
        raise LabFailed(f"the test guest says '{verdict}'")
    guest.at.quit()
    return [move]
