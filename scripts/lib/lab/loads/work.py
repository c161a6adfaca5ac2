"""Programs that compute: memory that is counted in, clocks that are watched."""

import dataclasses

from ..progress import LabFailed
from .load import Load


class Memory(Load):
    """A program counts in each page of its memory, and checks it."""

    name = "memory"

    def shape(self, plan):
        """The program runs."""
        return dataclasses.replace(plan, programs=(*plan.programs, "memory"))

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


class Clocks(Load):
    """Programs on all vCPUs watch the clocks."""

    name = "clocks"
    # The hosts' own clocks are set to the second only, when they boot.
    WALL_SLACK = 2.0

    def shape(self, plan):
        """Two vCPUs at least."""
        return dataclasses.replace(plan, programs=(*plan.programs, "clocks"), cpus=max(plan.cpus, 2))

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


def _wall_ahead(guest):
    """The guest's wall clock less the lab's own clock, at the latest line that tells it."""
    lines = [(now, line.split(" ")) for now, line in guest.console.lines()]
    now, words = next((now, words) for now, words in reversed(lines) if words[0] == "clocks" and len(words) == 4)
    return float(words[2]) - now
