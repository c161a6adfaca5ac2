"""Runs in, one table out: what Whimbrel is meant to reach, and whether it does. The goals are the only figures written here."""

import itertools
import statistics
from dataclasses import dataclass

from .table import by_size, good, groups, number, ratios, row

# What a figure is held against.
RATIO, LEAST = "ours / QEMU's", "ours, at least"
# Of a guest's RAM, and besides that: what the VMM may take on top of it, in MiB.
BEYOND_MIB, BEYOND_SHARE = 40, 0.001
# How much more a GiB may cost, and how many ms longer the blackout may be, in a larger guest.
FLAT_TOTAL, FLAT_BLACKOUT_MS = 1.10, 1.0

HEADS = ["figure", "goal", "ours", "QEMU's", "ratio", "met"]
LEGEND = """\
Medians of ours and of QEMU's; the ratio is the median of those taken within each pair of neighbouring runs. *met*: yes, no, or -
where the run has no data for all of it. {size}{cores}."""


@dataclass(frozen=True)
class Part:
    """A figure and its limit."""

    figure: str
    digits: int
    limit: float
    transport: str = "unix"
    workload: str = "hot"
    mode: str = "postcopy"
    against: str = RATIO
    unit: str = ""

    @property
    def kind(self):
        return (self.transport, self.workload, self.mode)

    def judge(self, found):
        """(ours, QEMU's, ratio, met) of the runs of its kind; None where there is no data."""
        by_vmm = found.get(self.kind, {})
        ours, theirs = (middle(by_vmm.get(vmm, []), self.figure) for vmm in ("whimbrel", "qemu"))
        ratio = median(ratios(by_vmm, self.figure))
        if any(run.failure for run in by_vmm.get("whimbrel", [])):
            # A figure of those that did not fail is no answer.
            met = False
        elif self.against == RATIO:
            met = None if ratio is None else ratio <= self.limit
        else:
            met = None if ours is None else ours >= self.limit
        return ours, theirs, ratio, met


def demand(transport, p50, p99, what="demand"):
    """The wait for a demanded page: of all slow visits, or of those only that asked for a page."""
    return [Part(f"{what}_p50_us", 0, p50, transport), Part(f"{what}_p99_us", 0, p99, transport)]


GOALS = [
    ("postcopy at once, hot, unix: total ms", [Part("total_ms", 0, 0.35)]),
    ("postcopy at once, hot, tcp: total ms", [Part("total_ms", 0, 0.4, "tcp")]),
    ("blackout ms, postcopy at once, hot, unix / tcp", [Part("blackout_ms", 1, 0.25), Part("blackout_ms", 1, 0.25, "tcp")]),
    ("demand page p50 / p99 / max us, unix", [*demand("unix", 0.5, 0.25), Part("demand_max_us", 0, 0.4)]),
    ("of these, the slowest, as many as were asked for: p50 / p99 us", demand("unix", 0.5, 0.25, "asked")),
    ("demand page p50 / p99 / max us, tcp", [*demand("tcp", 0.4, 0.15), Part("demand_max_us", 0, 0.3, "tcp")]),
    ("of these, the slowest, as many as were asked for: p50 / p99 us", demand("tcp", 0.4, 0.15, "asked")),
    (
        "demand page p50 / p99 us while the background fills a link; link used",
        [*demand("link", 0.2, 0.1), Part("link_used_percent", 1, 90, "link", against=LEAST, unit="%")],
    ),
    ("of these, the slowest, as many as were asked for: p50 / p99 us", demand("link", 0.2, 0.1, "asked")),
    ("guest work lost during postcopy, hot, unix: ms", [Part("lost_ms", 0, 0.3)]),
    ("CPU seconds, source + destination, per GiB, hot, unix", [Part("cpu_s_per_gib", 2, 0.6)]),
    ("guest speed afterwards / before, postcopy, hot, unix", [Part("after", 2, 0.97, against=LEAST)]),
    (
        "precopy, calm, unix: total / blackout ms",
        [Part("total_ms", 0, 0.3, "unix", "calm", "precopy"), Part("blackout_ms", 1, 0.3, "unix", "calm", "precopy")],
    ),
    ("precopy, hot, unix: total / blackout ms", [Part("total_ms", 0, 0.5, mode="precopy"), Part("blackout_ms", 1, 0.3, mode="precopy")]),
    (
        "hybrid after 1 pass, hot, unix: total / blackout / lost ms",
        [Part("total_ms", 0, 0.35, mode="hybrid"), Part("blackout_ms", 1, 0.2, mode="hybrid"), Part("lost_ms", 0, 0.3, mode="hybrid")],
    ),
]


def markdown(runs, choice, cores):
    """The table, with a line on what it is of."""
    size = f"{choice.main}, {choice.main.memory_mib} MiB of RAM; "
    legend = LEGEND.format(size=size, cores=f"{cores} cores" if cores > 1 else "1 core")
    table = [row(HEADS), row(["---"] * 2 + ["---:"] * 3 + ["---"]), *map(row, rows(runs, choice, cores))]
    return f"### The goals\n\n{legend}\n\n" + "\n".join(table) + "\n"


def rows(runs, choice, cores):
    """The cells of each row."""
    found = groups([run for run in runs if run.case.settings == choice.main])
    sizes = [choice.main, *choice.scaled]
    scaled = by_size([run for run in runs if run.case.kind == choice.scaled_kind], sizes)
    more_memory = {size: by_vmm for size, by_vmm in scaled.items() if size.cpus == choice.main.cpus}
    more_cpus = {size: by_vmm for size, by_vmm in scaled.items() if size.working_set == choice.main.working_set}
    result = [against_limits(title, parts, found) for title, parts in GOALS]
    return [*result, channels(found), beyond(found, choice.main), as_memory_grows(more_memory), as_cpus_grow(more_cpus, cores)]


def against_limits(title, parts, found):
    """A row of figures, each with its limit."""
    judged = [part.judge(found) for part in parts]
    ours, theirs = (slashed(number_of(it[i], part) for part, it in zip(parts, judged)) for i in (0, 1))
    return [title, goal(parts), ours, theirs, slashed(number(it[2], 2) for it in judged), verdict([it[3] for it in judged])]


def number_of(value, part):
    return number(value, part.digits) + (part.unit if value is not None else "")


def goal(parts):
    """Limits as people write them: <= 0.2 / 0.1, >= 90%."""
    words = []
    for against, some in itertools.groupby(parts, key=lambda part: part.against):
        limits = " / ".join(f"{part.limit:g}{part.unit}" for part in some)
        words.append(f"<= {limits}" if against == RATIO else f">= {limits}")
    return ", ".join(words)


def channels(found):
    """Four channels of multifd against one, of each VMM by itself."""
    one, four = (found.get(("tcp", "calm", mode), {}) for mode in ("single", "multifd"))
    ours, theirs = (four_by_one(one.get(vmm, []), four.get(vmm, [])) for vmm in ("whimbrel", "qemu"))
    ratio = ours / theirs if ours and theirs else None
    failed = any(run.failure for run in four.get("whimbrel", []))
    met = False if failed else None if ours is None else ours <= 1
    title = "precopy over tcp, calm: total with 4 multifd channels / with 1"
    return [title, "ours <= 1", number(ours, 2), number(theirs, 2), number(ratio, 2), verdict([met])]


def four_by_one(one, four):
    """The median of the ratios of one repetition's totals."""
    base = {run.case.rep: run.figures["total_ms"] for run in good(one)}
    return median([run.figures["total_ms"] / base[run.case.rep] for run in good(four) if run.case.rep in base])


def beyond(found, size):
    """The worst of all kinds of migration."""
    limit = BEYOND_MIB + BEYOND_SHARE * size.memory_mib
    worst = max(found.values(), key=lambda by_vmm: middle(by_vmm.get("whimbrel", []), "beyond_mib") or 0, default={})
    ours, theirs = (middle(worst.get(vmm, []), "beyond_mib") for vmm in ("whimbrel", "qemu"))
    met = None if ours is None else ours <= limit
    goal = f"<= {BEYOND_MIB} MiB + {BEYOND_SHARE:.1%} of RAM"
    cells = [number(ours, 1), number(theirs, 1), number(median(ratios(worst, "beyond_mib")), 2)]
    return ["memory beyond guest RAM, MiB, of the worst kind of move", goal, *cells, verdict([met])]


def as_memory_grows(scaled):
    """Total per GiB and blackout of each size, held against the first one's."""
    names = ", ".join(size.working_set for size in scaled)
    columns = [("total_ms_per_gib", 0), ("blackout_ms", 1)]
    ours, theirs = (listed(scaled, vmm, columns) for vmm in ("whimbrel", "qemu"))
    title = f"cost as RAM grows ({names}): total ms per GiB; blackout ms"
    met = met_flat(scaled) if len(scaled) > 1 else None
    goal = f"flat within {FLAT_TOTAL - 1:.0%}; within {FLAT_BLACKOUT_MS:g} ms"
    return [title, goal, ours, theirs, joined("; ", (slashed_ratios(scaled, figure) for figure, _ in columns)), verdict([met])]


def met_flat(scaled):
    sizes = [by_vmm.get("whimbrel", []) for by_vmm in scaled.values()]
    if any(run.failure for some in sizes for run in some):
        return False
    totals = [middle(some, "total_ms_per_gib") for some in sizes]
    blackouts = [middle(some, "blackout_ms") for some in sizes]
    if None in totals or None in blackouts:
        return None
    return max(totals) <= totals[0] * FLAT_TOTAL and max(blackouts) <= blackouts[0] + FLAT_BLACKOUT_MS


def as_cpus_grow(scaled, cores):
    """Pages asked for in a second by each number of vCPUs; each must be more than the last, up to a vCPU for each core."""
    names = ", ".join(str(size.cpus) for size in scaled)
    ours, theirs = (listed(scaled, vmm, [("requested_per_s", 0)]) for vmm in ("whimbrel", "qemu"))
    fit = sorted((size.cpus, middle(by_vmm.get("whimbrel", []), "requested_per_s")) for size, by_vmm in scaled.items() if size.cpus <= cores)
    rates = [rate for _, rate in fit]
    failed = any(run.failure for by_vmm in scaled.values() for run in by_vmm.get("whimbrel", []))
    unknown = len(rates) < 2 or None in rates
    met = False if failed else None if unknown else all(a < b for a, b in itertools.pairwise(rates))
    title = f"vCPUs faulting at once ({names}): demanded pages per second"
    return [title, "grows until cores are out", ours, theirs, slashed_ratios(scaled, "requested_per_s"), verdict([met])]


def listed(scaled, vmm, columns):
    """Medians of each size; figures apart from each other by semicolons."""
    figures = lambda figure, digits: slashed(number(middle(by_vmm.get(vmm, []), figure), digits) for by_vmm in scaled.values())
    return joined("; ", (figures(*column) for column in columns))


def slashed_ratios(scaled, figure):
    return slashed(number(median(ratios(by_vmm, figure)), 2) for by_vmm in scaled.values())


def slashed(words):
    return joined(" / ", words)


def joined(between, words):
    """Several figures in a cell; one dash if there are none."""
    words = list(words)
    return between.join(words) if any(word != "-" for word in words) else "-"


def verdict(met):
    """One word on all parts: no if one is missed, yes if all are met, - if that is not known."""
    return "no" if False in met else "-" if None in met else "yes"


def middle(runs, figure):
    """The median of those that have the figure."""
    return median([value for run in good(runs) if (value := run.figures.get(figure)) is not None])


def median(values):
    return statistics.median(values) if values else None
