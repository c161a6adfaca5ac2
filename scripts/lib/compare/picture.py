"""Runs in, an SVG out: the guest's speed around each migration, and how long blackout and migration took."""

import math
import statistics
from html import escape

from .plan import MODES, WORKLOADS
from .table import good, groups, number

COLORS = {"whimbrel": "#0b7a75", "qemu": "#d9622b"}
INK, FAINT, GRID = "#1d2733", "#5b6775", "#e3e7ec"
FONT = "font-family=\"'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif\""

WIDTH = 1180
LEFT, GAP, TOP = 64, 34, 96
PANEL_HEIGHT, ROW = 132, 196
BAR, GROUP_GAP = 13, 12


class Canvas:
    """Collects the elements of an SVG."""

    def __init__(self):
        self.parts = []

    def text(self, x, y, words, size=12, anchor="start", color=INK, bold=False):
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}"{weight}>{escape(words)}</text>')

    def line(self, x1, y1, x2, y2, color=GRID, width=1.0, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}"{dashes}/>')

    def rect(self, x, y, width, height, color, opacity=1.0):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" fill="{color}" fill-opacity="{opacity}"/>')

    def dot(self, x, y, color):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="#fff" stroke="{color}" stroke-width="1.3"/>')

    def steps(self, points, color, width=1.6, dash=""):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}" stroke-linejoin="round"{dashes}/>')

    def svg(self, width, height):
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}" {FONT}>\n'
            f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
        )


def draw(runs, versions):
    """The whole picture, of the first transport that was measured."""
    canvas = Canvas()
    all_groups = groups(runs)
    transport = next(iter(all_groups))[0]
    chosen = {key[1:]: by_vmm for key, by_vmm in all_groups.items() if key[0] == transport}
    heading(canvas, versions, transport)
    y = speeds(canvas, chosen, TOP)
    y = bars(canvas, chosen, y + 12)
    return canvas.svg(WIDTH, y + 24)


def heading(canvas, versions, transport):
    canvas.text(LEFT, 32, "A guest moves: its speed around the migration", 20, bold=True)
    canvas.text(LEFT, 52, f"100% is its undisturbed speed; the command comes at 0, the run of median loss is shown, over {transport}", 12, color=FAINT)
    x = names_of(canvas, versions)
    canvas.rect(x, 61, 14, 12, FAINT, 0.28)
    canvas.text(x + 20, 71, "blackout: nothing heard of the guest", 12, color=FAINT)
    canvas.line(x + 250, 60, x + 250, 74, FAINT, 1.4, "3 2")
    canvas.text(x + 258, 71, "both sides say completed", 12, color=FAINT)


def names_of(canvas, versions):
    """Says whose color is whose; where there is room again."""
    x = LEFT
    for vmm, version in versions.items():
        canvas.rect(x, 65, 22, 4, COLORS[vmm])
        name = version.split(" (")[0]
        canvas.text(x + 28, 71, name, 12, bold=True)
        x += 60 + 7.2 * len(name)
    return x


def present(chosen):
    """The workloads and modes that were measured, in the order of the plan."""
    workloads = [name for name in WORKLOADS if any(key[0] == name for key in chosen)]
    modes = [name for name in MODES if any(key[1] == name for key in chosen)]
    return workloads, modes


def typical(runs):
    """The run of median loss among those that succeeded."""
    well = [run for run in good(runs) if run.speeds and run.figures["lost_ms"] is not None]
    well.sort(key=lambda run: run.figures["lost_ms"])
    return well[(len(well) - 1) // 2] if well else None


def speeds(canvas, chosen, top):
    """A panel for each workload and mode; the lowest y that is free again."""
    workloads, modes = present(chosen)
    width = (WIDTH - LEFT - 20 - GAP * (len(modes) - 1)) / len(modes)
    for r, workload in enumerate(workloads):
        for c, mode in enumerate(modes):
            shown = {vmm: typical(runs) for vmm, runs in chosen.get((workload, mode), {}).items()}
            Panel(canvas, LEFT + c * (width + GAP), top + 22 + r * ROW, width).draw(f"{mode}, {workload} guest", shown, c == 0)
    return top + len(workloads) * ROW


class Panel:
    """Speed over time of one migration by each VMM."""

    BEFORE = -300
    # The highest speed that the axis shows.
    PEAK = 1.3

    def __init__(self, canvas, x, y, width):
        self.canvas, self.x0, self.y0, self.width = canvas, x, y, width
        self.end = 1000

    def x(self, ms):
        share = (ms - self.BEFORE) / (self.end - self.BEFORE)
        return self.x0 + self.width * min(max(share, 0), 1)

    def y(self, speed):
        return self.y0 + PANEL_HEIGHT * (1 - min(speed, self.PEAK) / self.PEAK)

    def draw(self, title, shown, labels):
        self.canvas.text(self.x0, self.y0 - 8, title, 13, bold=True)
        runs = {vmm: run for vmm, run in shown.items() if run}
        self.end = max([run.figures["total_ms"] + 900 for run in runs.values()], default=1000)
        self._axes(labels)
        for vmm, run in runs.items():
            self._marks(run, COLORS[vmm])
        for vmm, run in sorted(runs.items()):
            self._curve(run, COLORS[vmm])
        missing = [vmm for vmm, run in shown.items() if run is None]
        if missing:
            self.canvas.text(self.x0 + self.width / 2, self.y0 + PANEL_HEIGHT / 2, f"{' and '.join(missing)}: failed", 12, "middle", FAINT)

    def _axes(self, labels):
        for share in (0, 0.5, 1):
            self.canvas.line(self.x0, self.y(share), self.x0 + self.width, self.y(share), INK if share == 0 else GRID)
            if labels:
                self.canvas.text(self.x0 - 8, self.y(share) + 4, f"{share:.0%}", 11, "end", FAINT)
        step = round_step(self.end / 3)
        for i in range(int(self.end / step) + 1):
            ms = i * step
            self.canvas.line(self.x(ms), self.y(0), self.x(ms), self.y(0) + 4, INK)
            label = f"{ms / 1000:g} s" if step >= 100 else f"{ms:g} ms"
            self.canvas.text(self.x(ms), self.y(0) + 17, label, 11, "middle", FAINT)

    def _marks(self, run, color):
        total = self.x(run.figures["total_ms"])
        self.canvas.line(total, self.y0, total, self.y(0), color, 1.3, "3 2")
        for start, end, speed in run.speeds:
            if speed == 0.0 and (end - start) >= 0.9 * run.figures["blackout_ms"]:
                self.canvas.rect(self.x(start), self.y0, max(self.x(end) - self.x(start), 1.5), PANEL_HEIGHT, color, 0.28)

    def _curve(self, run, color):
        points = []
        for start, end, speed in thin([it for it in run.speeds if self.BEFORE <= it[0] and it[1] <= self.end], (self.end - self.BEFORE) / self.width):
            points += [(self.x(start), self.y(speed)), (self.x(end), self.y(speed))]
        if points:
            self.canvas.steps(points, color)


def thin(spans, least):
    """Joins spans shorter than 1.5 pixels, so that a long migration is a curve and not a carpet. Blackouts stay."""
    result, start, work = [], None, 0.0
    for begin, end, speed in spans:
        if speed == 0.0 and start is None:
            result.append((begin, end, speed))
            continue
        start = begin if start is None else start
        work += speed * (end - begin)
        if end - start >= 1.5 * least:
            result.append((start, end, work / (end - start)))
            start, work = None, 0.0
    return result


def round_step(about):
    """The largest of 1, 2, 5 times a power of ten that is not above."""
    power = 10 ** math.floor(math.log10(about))
    return max(power * digit for digit in (1, 2, 5) if power * digit <= about)


def bars(canvas, chosen, top):
    """Blackout and total time: a bar to the median, a dot for each run."""
    width = (WIDTH - LEFT - 20 - 2 * 120 - GAP) / 2
    lowest = top
    for i, (figure, title) in enumerate([("blackout_ms", "Blackout"), ("total_ms", "Total time")]):
        x = LEFT + 110 + i * (width + 120 + GAP)
        lowest = max(lowest, strip(canvas, chosen, figure, title, x, top + 22, width - 60))
    return lowest


def strip(canvas, chosen, figure, title, x, y, width):
    """One figure of all groups, on a logarithmic scale, since they lie a hundredfold apart."""
    values = [run.figures[figure] for by_vmm in chosen.values() for runs in by_vmm.values() for run in good(runs)]
    canvas.text(x, y - 8, f"{title}, ms", 13, bold=True)
    if not values:
        return y
    low, high = 10 ** math.floor(math.log10(max(min(values), 0.1))), 10 ** math.ceil(math.log10(max(values) * 1.01))
    place = lambda value: x + width * math.log(max(value, low) / low) / math.log(high / low)
    groups_height = sum(len(by_vmm) * BAR + GROUP_GAP for by_vmm in chosen.values())
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = place(10**power)
        canvas.line(at, y, at, y + groups_height, GRID)
        canvas.text(at, y + groups_height + 15, f"{10**power:,g}", 11, "middle", FAINT)
    y += GROUP_GAP / 2
    for (workload, mode), by_vmm in chosen.items():
        canvas.text(x - 8, y + BAR * len(by_vmm) / 2 + 4, f"{mode}, {workload}", 12, "end")
        for vmm, runs in sorted(by_vmm.items(), reverse=True):
            bar(canvas, [run.figures[figure] for run in good(runs)], COLORS[vmm], x, y, place)
            y += BAR
        y += GROUP_GAP
    return y + 24


def bar(canvas, values, color, x, y, place):
    if not values:
        canvas.text(x + 4, y + BAR - 3, "failed", 11, color=color)
        return
    middle = statistics.median(values)
    canvas.rect(x, y + 1, place(middle) - x, BAR - 2, color, 0.85)
    for value in values if len(values) > 1 else []:
        canvas.dot(place(value), y + BAR / 2, color)
    canvas.text(place(max(values)) + 7, y + BAR - 2.5, number(middle, 1 if middle < 100 else 0), 11, color=INK)
