"""Which scenarios there are, and which of them a run of the lab does."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .guest import MODES
from .loads import Clocks, Entropy, FreePages, Memory, Ping, Records, VirtioConsole
from .scenarios import builtin, endings, journey, moments

PHASES = {"precopy": ["precopy"], "postcopy": ["postcopy"], "hybrid": ["precopy", "postcopy"]}
ENDINGS = {"reboot": endings.reboot, "power-off": endings.power_off}
FORMATS = ("raw", "qcow2")


@dataclass(frozen=True)
class Case:
    """One scenario in one mode."""

    # The numbers of the scenarios that it covers, as text: 'quick' ones cover several.
    scenario: str
    title: str
    mode: str
    run: Callable

    def covers(self, numbers, modes):
        """Whether it belongs to a choice; an empty one is everything."""
        return (not numbers or not numbers.isdisjoint(self.scenario.split("+"))) and (not modes or self.mode in modes)


def full(moments_each=20, moves=10):
    """Everything."""
    for mode in MODES:
        yield Case("0", "built-in test guest", mode, partial(builtin.run, mode=mode))
    for mode in MODES:
        yield Case("0", "two writers of one disk", mode, partial(builtin.two_writers, mode=mode))
    for mode in MODES:
        yield Case("1", "memory", mode, partial(journey.run, mode=mode, loads=[Memory()]))
    for image_format in FORMATS:
        for mode in MODES:
            yield Case("2", f"records on {image_format}", mode, partial(journey.run, mode=mode, loads=[Records(image_format)]))
    for mode in MODES:
        yield Case("3", "ping", mode, partial(journey.run, mode=mode, loads=[Memory(), Ping()]))
    for mode in MODES:
        yield Case("4", "clocks of 2 vCPUs", mode, partial(journey.run, mode=mode, loads=[Clocks()]))
    for mode in MODES:
        yield Case("5", f"{moments_each} moments of the boot", mode, partial(moments.run, mode=mode, count=moments_each))
    for mode, phases in PHASES.items():
        for phase in phases:
            for word, ending in ENDINGS.items():
                yield Case("6", f"{word} during {phase}", mode, partial(ending, mode=mode, phase=phase))
    for mode in MODES:
        yield Case("7", f"{moves} moves in a row", mode, partial(journey.run, mode=mode, loads=everything(mode), moves=moves))


def everything(mode):
    """All that a guest can do at once, with all devices; the disk is another in each mode."""
    disk = {"precopy": Records("raw"), "postcopy": Records("qcow2", backed=True), "hybrid": Records("qcow2")}[mode]
    return [Memory(), disk, Clocks(), Entropy(), FreePages(), *([VirtioConsole()] if mode == "postcopy" else []), Ping()]


def quick():
    """At least one case that would notice each kind of failure: all loads at once in each mode, and the rest in one."""
    for mode in MODES:
        yield Case("1+2+3+4", "everything at once", mode, partial(journey.run, mode=mode, loads=everything(mode)))
    yield Case("6", "reboot during postcopy", "postcopy", partial(endings.reboot, mode="postcopy", phase="postcopy"))
    yield Case("5", "2 moments of the boot", "hybrid", partial(moments.run, mode="hybrid", count=2))
    yield Case("0", "two writers of one disk", "postcopy", partial(builtin.two_writers, mode="postcopy"))
