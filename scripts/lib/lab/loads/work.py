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
    # In seconds. The hosts' own clocks are set by the lab's, as precisely as a slow host can be asked for its time.
    WALL_SLACK = 1.0
    # So many lines tell the time: one that was on its way for long seems to tell of a clock that is slow, never of one that is fast.
    WALL_LINES = 20

    def shape(self, plan):
        """Two vCPUs at least."""
        return dataclasses.replace(plan, programs=(*plan.programs, "clocks"), cpus=max(plan.cpus, 2))

    def begin(self, bench, guest):
        """They read."""
        self.wall = self._wall_ahead(guest)

    def moved(self, bench, guest, move):
        """They read on, and the wall clock is right."""
        ahead = self._wall_ahead(guest)
        move.notes.append(f"wall clock {ahead - self.wall:+.2f} s")
        if abs(ahead - self.wall) > self.WALL_SLACK:
            raise LabFailed(f"the guest's wall clock moved by {ahead - self.wall:+.2f} s against that of the lab")

    def _wall_ahead(self, guest):
        """The guest's wall clock less the lab's own clock, by the next lines that tell it."""
        seen = len(guest.numbers("clocks"))
        for _ in range(self.WALL_LINES):
            guest.reaches("clocks", guest.numbers("clocks")[-1][1] if seen else 0)
            seen = len(guest.numbers("clocks"))
        lines = [(now, line.split(" ")) for now, line in guest.console.lines()]
        ahead = [float(words[2]) - now for now, words in lines if words[0] == "clocks" and len(words) == 4]
        return max(ahead[-self.WALL_LINES :])
