"""Scenario 5: the migration begins at a random moment between power-on and init."""

from ..progress import LabFailed


def run(bench, mode, count):
    """So many guests, each moved at a moment of its own. All must get as far as one that does not move."""
    span = _undisturbed(bench)
    made = []
    for number in range(count):
        moment = bench.random.uniform(0, span)
        try:
            made.append(_at(bench, mode, moment))
        except LabFailed as why:
            raise LabFailed(f"guest {number + 1} of {count}, moved {moment:.2f} s after power-on: {why}") from why
    return made


def _undisturbed(bench):
    """How long a guest takes to init. The moments are spread over that."""
    guest = bench.guest(bench.plan(cpus=2), "--paused")
    guest.at.qmp.execute("cont")
    began = bench.now()
    guest.ready()
    guest.at.quit()
    return bench.now() - began


def _at(bench, mode, moment):
    guest = bench.guest(bench.plan(cpus=2), "--paused")
    destination = guest.prepare_move(bench.hosts.b)
    guest.at.qmp.execute("cont")
    bench.pause(moment)
    guest.begin_move(mode, destination)
    move = guest.end_move(mode, destination)
    guest.ready()
    bench.accept(guest)
    guest.at.quit()
    # A console that says nothing for seconds is ordinary in a boot.
    move.ends = ()
    return move
