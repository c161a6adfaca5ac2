"""Runs in, a Markdown table and a CSV out."""

import csv
import io
import statistics

from .plan import MODES, TRANSPORTS, WORKLOADS

# (figure, heading, digits after the point)
COLUMNS = [
    ("total_ms", "total ms", 0),
    ("own_total_ms", "total ms, by its own account", 0),
    ("blackout_ms", "blackout ms", 1),
    ("own_downtime_ms", "downtime ms, by its own account", 0),
    ("demand_p50_us", "demand p50 us", 0),
    ("demand_p99_us", "p99 us", 0),
    ("demand_max_us", "max us", 0),
    ("lost_ms", "lost ms", 0),
    ("cpu_s", "CPU s", 2),
    ("after", "speed after", 2),
    ("requested_pages", "pages asked for", 0),
    ("transferred_mib", "MiB sent", 0),
]
OWN_DEMAND = [("own_demand_p50_us", "p50 us", 0), ("own_demand_p99_us", "p99 us", 0), ("own_demand_max_us", "max us", 0)]

LEGEND = """\
Medians, with the least and the greatest in brackets. *total*: from the command to the event that says completed, of the
side where it comes last. *blackout*: from the last byte of the source's serial port to the first of the destination's, seen from
outside; the guest sends a byte every {interval} ms. *demand*: visits of the guest slower than 20 us while postcopy ran, by the
guest's own clock. *lost*: guest work missing 2 s after the end, in ms of undisturbed guest time. *CPU*: both processes from
the command to the end, the guest's own work included. *speed after*: of the second second after the end, 1 being before."""


def number(value, digits):
    """A figure as people read it."""
    return "-" if value is None else f"{value:,.{digits}f}"


def spread(values, digits):
    """Median and range."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    middle = number(statistics.median(values), digits)
    if len(values) == 1:
        return middle
    return f"{middle} [{number(min(values), digits)}-{number(max(values), digits)}]"


def groups(runs):
    """{(transport, workload, mode): {vmm: [runs]}}, in the order of the plan."""
    result = {}
    for run in runs:
        case = run.case
        key = (case.transport, case.workload, case.mode)
        result.setdefault(key, {}).setdefault(case.vmm, []).append(run)
    order = [list(TRANSPORTS), list(WORKLOADS), list(MODES)]
    return dict(sorted(result.items(), key=lambda it: [names.index(name) for names, name in zip(order, it[0])]))


def good(runs):
    """Those that did not fail."""
    return [run for run in runs if run.failure is None]


def ratios(by_vmm, figure):
    """Whimbrel's figure by QEMU's, for each pair of runs that both have it."""
    theirs = {run.case.pair: run.figures.get(figure) for run in good(by_vmm.get("qemu", []))}
    result = []
    for run in good(by_vmm.get("whimbrel", [])):
        ours, other = run.figures.get(figure), theirs.get(run.case.pair)
        if ours is not None and other:
            result.append(ours / other)
    return result


def ratio(by_vmm, figure):
    """The median ratio as text."""
    found = ratios(by_vmm, figure)
    return f"**{statistics.median(found):.2f}**" if found else "-"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def markdown(runs, versions, settings, reps):
    """The whole report."""
    parts = [preface(runs, versions, settings, reps)]
    for transport, name in TRANSPORTS.items():
        chosen = [run for run in runs if run.case.transport == transport]
        if chosen:
            parts.append(f"### Over {name}\n\n" + table(chosen))
    own = own_account(runs)
    parts += [own] if own else []
    failures = [f"- {run.case}: {run.failure}" for run in runs if run.failure]
    if failures:
        parts.append(f"### Failed: {len(failures)} of {len(runs)} runs\n\n" + "\n".join(failures))
    return "\n\n".join(parts) + "\n"


def preface(runs, versions, settings, reps):
    """What was compared, and what the columns mean."""
    intervals = [run.figures["byte_interval_ms"] for run in good(runs) if run.figures["byte_interval_ms"]]
    interval = f"{statistics.median(intervals):.2f}" if intervals else "?"
    repetitions = "1 repetition" if reps == 1 else f"{reps} repetitions"
    names = " and ".join(versions.values())
    words = [
        f"{names}; {settings.cpus} vCPU, {settings.memory_mib} MiB of RAM of which {settings.working_set} is visited; {repetitions}, "
        "interleaved.",
        "",
        *(f"- {name}: {text}" for name, (_, text) in WORKLOADS.items()),
        *(f"- {name}: {text}" for name, text in MODES.items()),
        "",
        LEGEND.format(interval=interval),
    ]
    return "\n".join(words)


def table(runs):
    """One row for each VMM, workload and mode, and one of ratios under each pair."""
    heads = ["workload", "mode", "", "runs"] + [heading for _, heading, _ in COLUMNS]
    out = [row(heads), row(["---"] * 3 + ["---:"] * (len(heads) - 3))]
    for (_, workload, mode), by_vmm in groups(runs).items():
        for vmm, some in sorted(by_vmm.items(), reverse=True):
            well = good(some)
            count = f"{len(well)}" if len(well) == len(some) else f"{len(well)}, {len(some) - len(well)} FAILED"
            stayed = mode != "precopy" and sum(not run.figures["switched"] for run in well)
            note = f" ({stayed} ended in precopy)" if stayed else ""
            cells = [spread([run.figures.get(figure) for run in well], digits) for figure, _, digits in COLUMNS]
            out.append(row([workload, mode, vmm + note, count, *cells]))
        if {"whimbrel", "qemu"} <= by_vmm.keys():
            out.append(row(["", "", "*whimbrel / qemu*", "", *(ratio(by_vmm, figure) for figure, _, _ in COLUMNS)]))
    return "\n".join(out)


def own_account(runs):
    """Demand latency as the VMMs say themselves, where they do."""
    out = []
    for (transport, workload, mode), by_vmm in groups(runs).items():
        for vmm, some in sorted(by_vmm.items(), reverse=True):
            values = [[run.figures.get(figure) for run in good(some)] for figure, _, _ in OWN_DEMAND]
            if any(value is not None for value in values[0]):
                cells = [spread(value, digits) for value, (_, _, digits) in zip(values, OWN_DEMAND)]
                out.append(row([transport, workload, mode, vmm, *cells]))
    if not out:
        return ""
    heads = ["transport", "workload", "mode", ""] + [heading for _, heading, _ in OWN_DEMAND]
    out = [row(heads), row(["---"] * 4 + ["---:"] * 3), *out]
    return "### Demand pages by the VMM's own account: from the fault to the page in place\n\n" + "\n".join(out)


def as_csv(runs):
    """Every run with every figure."""
    names = list(dict.fromkeys(name for run in runs for name in run.figures))
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["transport", "workload", "mode", "repetition", "vmm", *names, "failure"])
    for run in runs:
        case = run.case
        values = (run.figures.get(name) for name in names)
        shown = [f"{value:.3f}" if isinstance(value, float) else value for value in values]
        out.writerow([case.transport, case.workload, case.mode, case.rep + 1, case.vmm, *shown, run.failure or ""])
    return text.getvalue()
