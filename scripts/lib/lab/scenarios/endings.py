"""Scenario 6: the guest reboots, or powers off, in the middle of its migration."""

from ..progress import LabFailed

# Bytes per second: a guest of some 60 MiB takes a minute to pass, and what it does in between takes a few seconds.
SLOW = 1 << 20


def reboot(bench, mode, phase):
    """The guest reboots; it boots again, and on the destination it stays."""
    guest, destination = _on_the_way(bench, mode, phase)
    place = guest.at if phase == "precopy" else destination
    boots = _boots(guest)
    _type(guest, place, "reboot -f\n")
    place.qmp.event("RESET", 240)
    # No need to be slow any more.
    guest.at.qmp.execute("migrate-set-parameters", max_bandwidth=0, max_postcopy_bandwidth=0)
    move = guest.end_move(mode, destination)
    guest.console.line(lambda line: line.startswith("guest: ready"), 300, "the guest to boot again", after=boots)
    bench.accept(guest)
    # The figures of a boot say nothing of the migration.
    move.ends = ()
    guest.power_down()
    return [move]


def power_off(bench, mode, phase):
    """The guest powers off: it runs nowhere any more, and both processes end, or wait for 'quit'."""
    guest, destination = _on_the_way(bench, mode, phase)
    source = guest.at
    place = source if phase == "precopy" else destination
    _type(guest, place, "poweroff -f\n")
    if status := place.exit_status(180):
        raise LabFailed(f"the guest powered off on host {place.host.name}, but Whimbrel ended with status {status}: {place.last_words()}")
    if phase == "precopy":
        if not destination.exit_status(180):
            raise LabFailed("the destination says that all is well, but no guest has arrived")
    elif source.job.wait(3) is None:
        # It keeps the pages of a guest that nobody needs any more.
        source.quit()
    bench.accept(guest)
    return []


def _on_the_way(bench, mode, phase):
    """A guest in that phase of its migration, and its destination."""
    guest = bench.guest(bench.plan(programs=("memory",)))
    guest.ready()
    guest.reaches("memory", 0)
    destination = guest.prepare_move(bench.hosts.b)
    slow = {"max_bandwidth": SLOW} if phase == "precopy" else {"max_postcopy_bandwidth": SLOW}
    guest.begin_move(mode, destination, **slow)
    guest.at.qmp.event("MIGRATION", 240, status="active" if phase == "precopy" else "postcopy-active")
    if phase == "postcopy":
        destination.qmp.event("RESUME", 120)
    return guest, destination


def _type(guest, place, text):
    place.serial.sendall(text.encode())


def _boots(guest):
    """The number of the line after the last that told of a boot."""
    return len(guest.console.lines())
