"""Runs in, an SVG out: which share of the waits for demanded pages was over by which time."""

import math
from collections import Counter

from .picture import COLORS, FAINT, GRID, INK, LEFT, NAMES, TOP, WIDTH, Canvas, compared
from .plan import PRECOPY
from .table import good, groups
from .timeline import SLOW_NS, quantile, slowest

GAP, RIGHT, PANEL_HEIGHT, ROW = 46, 24, 190, 272
MARKS = (0.5, 0.99)
UNITS = ("ns", "us", "ms", "s")


def draw(runs, versions):
    """A panel for each transport, workload and mode in which pages were demanded."""
    kinds = {kind: by_vmm for kind, by_vmm in groups(runs).items() if kind[2] not in PRECOPY}
    return panels({kind: {vmm: (merged(some), merged(some, asked_only=True)) for vmm, some in by_vmm.items()} for kind, by_vmm in kinds.items()}, versions)


def panels(curves, versions):
    """The picture of {kind: {vmm: (all slow visits, those asked for)}}, each a histogram. A last row with fewer panels has wider ones."""
    canvas = Canvas()
    heading(canvas, versions)
    if not curves:
        canvas.text(LEFT, TOP + 30, "No guest ran while its pages were on the way.", 13, color=FAINT)
    longest = max((slow[-1][0] for by_vmm in curves.values() for slow, _ in by_vmm.values() if slow), default=SLOW_NS)
    # Whole powers of ten from 10 us on, so that all panels compare.
    powers = range(4, max(6, math.ceil(math.log10(longest * 9 / 8))) + 1)
    across, kinds = 4 if len(curves) % 4 == 0 else 3, list(curves.items())
    for r in range(0, len(kinds), across):
        row = kinds[r : r + across]
        width = (WIDTH - LEFT - RIGHT - GAP * (len(row) - 1)) / len(row)
        for i, (kind, by_vmm) in enumerate(row):
            Panel(canvas, LEFT + i * (width + GAP), TOP + 22 + r // across * ROW, width, powers).draw(kind, by_vmm, i == 0)
    return canvas.svg(WIDTH, TOP + max(1, math.ceil(len(kinds) / across)) * ROW)


def merged(runs, asked_only=False):
    """The histograms of all runs that did not fail as one: (lower bound in ns, count), in order. Or of the slowest, those asked for."""
    counts = Counter()
    for run in good(runs):
        counts.update(dict(map(tuple, slowest(run.waits, run.figures["requested_pages"] or 0) if asked_only else run.waits)))
    return sorted(counts.items())


def cumulated(buckets):
    """(ns, share of the waits that were over by then), at each bucket's upper end."""
    total, seen = sum(count for _, count in buckets), 0
    points = [(buckets[0][0], 0.0)]
    for lower, count in buckets:
        seen += count
        points.append((lower * 9 / 8, seen / total))
    return points


def heading(canvas, versions):
    canvas.text(LEFT, 32, "How long a guest waits for a page that it demands", 20, bold=True)
    words = f"{compared(versions)}, by the guest's own clock, all repetitions; dots at the median and at 99%"
    canvas.text(LEFT, 52, words, 12, color=FAINT)
    canvas.line(LEFT, 68, LEFT + 22, 68, FAINT, 1.6)
    canvas.text(LEFT + 28, 72, "the slowest visits, as many as pages were asked for", 12, color=FAINT)
    canvas.line(LEFT + 366, 68, LEFT + 388, 68, FAINT, 1.2, "3 2")
    canvas.text(LEFT + 394, 72, f"all visits slower than {SLOW_NS // 1000} us", 12, color=FAINT)


class Panel:
    """The distributions of one kind of migration."""

    def __init__(self, canvas, x, y, width, powers):
        self.canvas, self.x0, self.y0, self.width, self.powers = canvas, x, y, width, powers

    def x(self, ns):
        return self.x0 + self.width * (math.log10(ns) - self.powers[0]) / (self.powers[-1] - self.powers[0])

    def y(self, share):
        return self.y0 + PANEL_HEIGHT * (1 - share)

    def draw(self, kind, by_vmm, labels):
        transport, workload, mode = kind
        self.canvas.text(self.x0, self.y0 - 8, f"{mode}, {workload} guest, {transport}", 13, bold=True)
        self._axes(labels)
        for vmm, (slow, asked) in sorted(by_vmm.items()):
            if slow:
                self.canvas.steps(self._points(slow), COLORS[vmm], 1.2, "3 2")
            if asked:
                self._curve(asked, COLORS[vmm])
        self._names({vmm: asked for vmm, (_, asked) in by_vmm.items() if asked})
        silent = [vmm for vmm, (slow, _) in sorted(by_vmm.items()) if not slow]
        if silent:
            # Beside the curve of the other, which has no reason to be at the lower right.
            self.canvas.text(self.x0 + self.width - 6, self.y(0.08), f"{' and '.join(silent)}: no wait seen", 12, "end", FAINT)

    def _axes(self, labels):
        for share in (0, 0.25, 0.5, 0.75, 1):
            self.canvas.line(self.x0, self.y(share), self.x0 + self.width, self.y(share), INK if share == 0 else GRID)
            self.canvas.text(self.x0 - 6, self.y(share) + 4, f"{100 * share:.0f}", 11, "end", FAINT)
        if labels:
            self.canvas.upright(self.x0 - 44, self.y(0.5), "waits over by then, %")
        for power in self.powers:
            at = self.x(10**power)
            self.canvas.line(at, self.y0, at, self.y(0), GRID)
            digits, unit = divmod(power, 3)[::-1]
            self.canvas.text(at, self.y(0) + 16, f"{10**digits} {UNITS[unit]}", 11, "middle", FAINT)
        self.canvas.text(self.x0 + self.width / 2, self.y(0) + 34, "wait for the page, logarithmic", 11, "middle", FAINT)

    def _names(self, curves):
        """Whose curve it is, beside its median: to the right of the slowest, to the left of another."""
        medians = {vmm: quantile(asked, sum(count for _, count in asked), 0.5) for vmm, asked in curves.items()}
        for vmm, ns in medians.items():
            right = ns == max(medians.values())
            place = (self.x(ns) + 9, "start") if right else (self.x(ns) - 8, "end")
            self.canvas.text(place[0], self.y(0.5) + 4, NAMES[vmm], 10, place[1], COLORS[vmm], halo=True)

    def _points(self, buckets):
        return [(self.x(ns), self.y(share)) for ns, share in cumulated(buckets)]

    def _curve(self, buckets, color):
        self.canvas.steps(self._points(buckets), color)
        total = sum(count for _, count in buckets)
        for share in MARKS:
            self.canvas.dot(self.x(quantile(buckets, total, share)), self.y(share), color)
