"""The smaller devices: entropy, balloon, console."""

import dataclasses
import itertools

from ..progress import LabFailed
from .load import Load


class Entropy(Load):
    """A program reads the machine's source of entropy."""

    name = "entropy"

    def shape(self, plan):
        """The device, and the program runs."""
        return dataclasses.replace(plan, rng=True, programs=(*plan.programs, "entropy"))

    def begin(self, bench, guest):
        """It has begun to read."""
        guest.reaches("entropy", 0)

    def moved(self, bench, guest, move):
        """It reads on."""
        guest.reaches("entropy", guest.numbers("entropy")[-1][1])


class FreePages(Load):
    """Much memory is written and given back, before a move and after it; the balloon reports it free."""

    name = "free pages"
    # The guest writes 32 MiB; some of them the kernel has only in pieces too small to be reported.
    REPORTED_MIB = 8
    # After a postcopy move each page's first write is a fault of its own, thousands of them.
    SECONDS = 300

    def shape(self, plan):
        """A balloon. The guest takes orders only if a program runs in it."""
        return dataclasses.replace(plan, balloon=True)

    def begin(self, bench, guest):
        """What the guest gave back, its host has again."""
        self.reported = self._use_and_give_back(bench, guest)

    def moved(self, bench, guest, move):
        """The same on the new host: what had been reported is memory like any other when it is used again."""
        move.notes.append(f"{self.reported} MiB reported free before")
        self.reported = self._use_and_give_back(bench, guest)

    def _use_and_give_back(self, bench, guest):
        self._order(guest, "write")
        self._order(guest, "check")
        full = guest.at.resident_mib()
        self._order(guest, "remove")
        deadline = bench.now() + self.SECONDS
        while (now := guest.at.resident_mib()) > full - self.REPORTED_MIB:
            if bench.now() > deadline:
                raise LabFailed(f"the guest gave 32 MiB back, but its process still has {now} MiB of {full}")
            # The driver reports what has been free for 2 s.
            bench.pause(0.5)
        return full - now

    def _order(self, guest, word):
        before = len(guest.console.lines())
        guest.console.send(f"lab-guest filler {word}\n")
        guest.console.line(lambda line: f"filler: {word} done" in line, self.SECONDS, f"the guest to {word} its filler", after=before)


class VirtioConsole(Load):
    """A program talks on the virtio console, and answers."""

    name = "virtio console"

    def shape(self, plan):
        """The device, and the program runs."""
        return dataclasses.replace(plan, console=True, programs=(*plan.programs, "console"))

    def begin(self, bench, guest):
        """It talks."""
        self._conversation(guest)

    def moved(self, bench, guest, move):
        """It talks on, and on the way no line was lost."""
        self._conversation(guest)

    def _conversation(self, guest):
        begun = len(guest.hvc.lines())
        word = f"line {begun}"
        guest.hvc.send(f"{word}\n")
        guest.hvc.line(lambda line: line == f"heard {word}", 120, "the guest to answer on its virtio console", after=begun)
        told = [line.split(" ")[1] for _, line in guest.hvc.lines() if line.startswith("console ")]
        if broken := first_gap(told):
            raise LabFailed(f"line '{broken}' on the virtio console is not the one that comes next")


def first_gap(told):
    """The first of these words that is not the next number, from 1 on; None if all are."""
    return next((word for number, word in zip(itertools.count(1), told) if word != str(number)), None)
