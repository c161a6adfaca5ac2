"""Runs in, an SVG out: the guest's speed around each migration, and how long blackout and migration took."""

import math
import statistics
from html import escape

from .plan import MODES, WORKLOADS
from .table import good, groups, number

COLORS = {"whimbrel": "#0b7a75", "qemu": "#d9622b"}
NAMES = {"whimbrel": "Whimbrel", "qemu": "QEMU"}
INK, FAINT, GRID = "#1d2733", "#5b6775", "#e3e7ec"
FONT = "font-family=\"'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif\""

WIDTH = 1180
LEFT, GAP, TOP = 76, 34, 84
PANEL_HEIGHT, ROW = 132, 212
LINE, GROUP_GAP = 15, 10


class Canvas:
    """Collects the elements of an SVG."""

    def __init__(self):
        self.parts = []

    def text(self, x, y, words, size=12, anchor="start", color=INK, bold=False, halo=False):
        """A halo keeps words readable where a curve passes behind them."""
        weight = ' font-weight="600"' if bold else ""
        around = ' paint-order="stroke" stroke="#fff" stroke-width="3" stroke-linejoin="round"' if halo else ""
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
        self.parts.append(f'<text {place} fill="{color}"{weight}{around}>{escape(words)}</text>')

    def upright(self, x, y, words, color=FAINT):
        """Words that run upwards, centred on a point: the title of a vertical axis."""
        place = f'x="{x:.1f}" y="{y:.1f}" transform="rotate(-90 {x:.1f} {y:.1f})"'
        self.parts.append(f'<text {place} font-size="11" text-anchor="middle" fill="{color}">{escape(words)}</text>')

    def line(self, x1, y1, x2, y2, color=GRID, width=1.0, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}"{dashes}/>')

    def rect(self, x, y, width, height, color, opacity=1.0):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" fill="{color}" fill-opacity="{opacity}"/>')

    def dot(self, x, y, color, filled=False):
        radius, inside = (4.2, color) if filled else (2.6, "#fff")
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{inside}" stroke="{color}" stroke-width="1.3"/>')

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
    y = intervals(canvas, chosen, y + 12)
    return canvas.svg(WIDTH, y + 24)


def heading(canvas, versions, transport):
    canvas.text(LEFT, 32, "A guest moves: its speed around the migration", 20, bold=True)
    words = f"{compared(versions)}, over {transport}; of each the run of median loss. Shaded: blackout. Dashed: both sides say completed"
    canvas.text(LEFT, 52, words, 12, color=FAINT)


def compared(versions):
    """Which versions stand beside each other."""
    return " and ".join(version.split(" (")[0] for version in versions.values())


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
        self._names(runs)
        missing = [vmm for vmm, run in shown.items() if run is None]
        if missing:
            self.canvas.text(self.x0 + self.width / 2, self.y0 + PANEL_HEIGHT / 2, f"{' and '.join(missing)}: failed", 12, "middle", FAINT)

    def _axes(self, labels):
        for share in (0, 0.5, 1):
            self.canvas.line(self.x0, self.y(share), self.x0 + self.width, self.y(share), INK if share == 0 else GRID)
            self.canvas.text(self.x0 - 6, self.y(share) + 4, f"{100 * share:.0f}", 11, "end", FAINT)
        if labels:
            self.canvas.upright(self.x0 - 44, self.y0 + PANEL_HEIGHT / 2, "speed, % of undisturbed")
        step = round_step(self.end / 3)
        for i in range(int(self.end / step) + 1):
            ms = i * step
            self.canvas.line(self.x(ms), self.y(0), self.x(ms), self.y(0) + 4, INK)
            self.canvas.text(self.x(ms), self.y(0) + 17, f"{ms:,g}", 11, "middle", FAINT)
        self.canvas.text(self.x0 + self.width / 2, self.y(0) + 34, "ms since the command", 11, "middle", FAINT)

    def _names(self, runs):
        """Whose curve it is, beside the line at its end; the later one lower, so that they never meet."""
        ends = sorted(runs.items(), key=lambda it: it[1].figures["total_ms"])
        for place, (vmm, run) in enumerate(ends):
            words = f"{NAMES[vmm]}: {run.figures['total_ms']:,.0f} ms"
            self.canvas.text(self.x(run.figures["total_ms"]) + 5, self.y(0.62) + 18 * place, words, 11, color=COLORS[vmm], bold=True, halo=True)

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


def intervals(canvas, chosen, top):
    """Blackout and total time: a small dot for each run, a large one at the median."""
    width = (WIDTH - LEFT - 20 - 2 * 60 - GAP) / 2
    lowest = top
    for i, (figure, title) in enumerate([("blackout_ms", "Blackout"), ("total_ms", "Total time")]):
        x = LEFT + 60 + i * (width + 60 + GAP)
        lowest = max(lowest, strip(canvas, chosen, figure, title, x, top + 22, width - 110))
    return lowest


def strip(canvas, chosen, figure, title, x, y, width):
    """One figure of all groups, on a logarithmic scale, since they lie a hundredfold apart."""
    values = [run.figures[figure] for by_vmm in chosen.values() for runs in by_vmm.values() for run in good(runs)]
    canvas.text(x, y - 8, title, 13, bold=True)
    if not values:
        return y
    low, high = 10 ** math.floor(math.log10(max(min(values), 0.1))), 10 ** math.ceil(math.log10(max(values) * 1.01))
    place = lambda value: x + width * math.log(max(value, low) / low) / math.log(high / low)
    groups_height = sum(len(by_vmm) * LINE + GROUP_GAP for by_vmm in chosen.values())
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = place(10**power)
        canvas.line(at, y, at, y + groups_height, GRID)
        canvas.text(at, y + groups_height + 15, f"{10**power:,g}", 11, "middle", FAINT)
    canvas.text(x + width / 2, y + groups_height + 32, "ms, logarithmic; small dots: runs, large dot: median", 11, "middle", FAINT)
    y += GROUP_GAP / 2
    for (workload, mode), by_vmm in chosen.items():
        canvas.text(x - 8, y + LINE * len(by_vmm) / 2 + 4, f"{mode}, {workload}", 12, "end")
        for vmm, runs in sorted(by_vmm.items(), reverse=True):
            interval(canvas, vmm, [run.figures[figure] for run in good(runs)], x, y + LINE / 2, place)
            y += LINE
        y += GROUP_GAP
    return y + 40


def interval(canvas, vmm, values, x, y, place):
    """The range of some runs, each run, and their median with its name."""
    color = COLORS[vmm]
    if not values:
        canvas.text(x + 4, y + 4, f"{NAMES[vmm]}: failed", 11, color=color)
        return
    middle = statistics.median(values)
    canvas.line(place(min(values)), y, place(max(values)), y, color, 1.3)
    for value in values if len(values) > 1 else []:
        canvas.dot(place(value), y, color)
    canvas.dot(place(middle), y, color, filled=True)
    words = f"{NAMES[vmm]} {number(middle, 1 if middle < 100 else 0)}"
    canvas.text(place(max(values)) + 9, y + 4, words, 11, color=color, halo=True)
