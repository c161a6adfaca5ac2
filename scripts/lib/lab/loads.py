"""What a guest does while it moves, and how it is told that this went well.

A load says what it needs of the guest (`shape`), prepares it (`prepare`), begins (`begin`, the guest is ready), looks after each
move (`moved`), and at the end, when the guest is off (`ended`). Each raises `LabFailed` with what is wrong. Several go together.
"""

import dataclasses

from . import disk
from .progress import LabFailed


class Memory:
    """A program counts in each page of its memory, and checks it."""

    name = "memory"

    def shape(self, plan):
        """The program runs."""
        return dataclasses.replace(plan, programs=(*plan.programs, "memory"))

    def prepare(self, bench, plan):
        """Nothing to prepare."""
        return plan

    def begin(self, bench, guest):
        """It has begun to count."""
        guest.reaches("memory", 0)

    def moved(self, bench, guest, move):
        """It goes on, and no number it printed is missing or came twice: its own checks see lost counts, these lost lines."""
        last = guest.numbers("memory")[-1][1]
        guest.reaches("memory", last)
        counts = [number for _, number in guest.numbers("memory")]
        if any(later <= earlier for earlier, later in zip(counts, counts[1:])):
            raise LabFailed("the memory program's counts went back")

    def ended(self, bench, guest):
        """Nothing is left behind."""


class Clocks:
    """Programs on all vCPUs watch the clocks."""

    name = "clocks"
    # The hosts' own clocks are set to the second only, when they boot.
    WALL_SLACK = 2.0

    def shape(self, plan):
        """Two vCPUs at least."""
        return dataclasses.replace(plan, programs=(*plan.programs, "clocks"), cpus=max(plan.cpus, 2))

    def prepare(self, bench, plan):
        """Nothing to prepare."""
        return plan

    def begin(self, bench, guest):
        """They read."""
        guest.reaches("clocks", 0)
        self.wall = _wall_ahead(guest)

    def moved(self, bench, guest, move):
        """They read on, and the wall clock is right."""
        guest.reaches("clocks", guest.numbers("clocks")[-1][1])
        ahead = _wall_ahead(guest)
        move.notes.append(f"wall clock {ahead - self.wall:+.2f} s")
        if abs(ahead - self.wall) > self.WALL_SLACK:
            raise LabFailed(f"the guest's wall clock moved by {ahead - self.wall:+.2f} s against that of the lab")

    def ended(self, bench, guest):
        """Nothing is left behind."""


def _wall_ahead(guest):
    """The guest's wall clock less the lab's own clock, at the latest line that tells it."""
    lines = [(now, line.split(" ")) for now, line in guest.console.lines()]
    now, words = next((now, words) for now, words in reversed(lines) if words[0] == "clocks" and len(words) == 4)
    return float(words[2]) - now


class Records:
    """A program writes numbered records to an ext4 disk, each synced before its number is printed."""

    def __init__(self, image_format="raw"):
        self.format = image_format
        self.name = f"records on {image_format}"

    def shape(self, plan):
        """The program runs."""
        return dataclasses.replace(plan, programs=(*plan.programs, "records"), disk_format=self.format)

    def prepare(self, bench, plan):
        """Makes the disk, on the shared storage."""
        self.image = f"{plan.name}.{self.format}"
        path = bench.share(disk.make(self.format, self.image, bench.folder), self.image)
        return dataclasses.replace(plan, disk=path)

    def begin(self, bench, guest):
        """It has begun to write."""
        guest.reaches("records", 0)

    def moved(self, bench, guest, move):
        """It writes on."""
        guest.reaches("records", guest.numbers("records")[-1][1])

    def ended(self, bench, guest):
        """The file system is clean and holds every record that was told of."""
        told = guest.numbers("records")[-1][1]
        kept = disk.check(self.format, self.image, bench.hosts.take_shared(self.image), bench.folder)
        if kept < told:
            raise LabFailed(f"the disk holds {kept} records, but {told} had been acknowledged")


class Ping:
    """The guest is pinged from outside every 10 ms."""

    name = "ping"
    # A lost ping is no error in itself: what arrives at a stopped guest is lost if the old host's queue is full.
    def shape(self, plan):
        """A network card."""
        return dataclasses.replace(plan, net=True)

    def prepare(self, bench, plan):
        """Nothing to prepare."""
        return plan

    def begin(self, bench, guest):
        """It answers."""
        network, mac = bench.hosts.network, guest.plan.mac()
        self.known, self.heard = len(network.moves(mac)), len(network.announcements(mac))
        network.ping(mac, guest.plan.address())
        bench.pause(2)

    def moved(self, bench, guest, move):
        """It answers from the new place, and the switch has learnt that by an announcement."""
        network, mac = bench.hosts.network, guest.plan.mac()
        # Some answers of the new place belong to the figures.
        bench.pause(2)
        seen = network.pinged(mac)
        if not seen["answered"]:
            raise LabFailed("no ping was answered")
        move.ping_gap, move.ping_lost = seen["gap"], seen["lost"]
        moves, announced = network.moves(mac)[self.known :], network.announcements(mac)[self.heard :]
        self.known, self.heard = self.known + len(moves), self.heard + len(announced)
        here = guest.at.host.name
        if [it.reached for it in moves] != [here]:
            raise LabFailed(f"the switch saw the guest move to {[it.reached for it in moves] or 'nowhere'}, not to {here}")
        heard = next((it for it in announced if it.port == here), None)
        if heard is None:
            raise LabFailed(f"the guest was not announced on host {here}: the switch learnt its port by {moves[0].by}, by chance")
        # A guest that has something to say may do so a moment before it is announced.
        move.notes.append(f"switch learnt by {moves[0].by}, {heard.by} {(heard.at - moves[0].at) * 1000:+.0f} ms")
        network.ping(mac, guest.plan.address())

    def ended(self, bench, guest):
        """Nobody pings a guest that is off."""
        bench.hosts.network.pinged(guest.plan.mac())
