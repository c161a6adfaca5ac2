"""Runs in, a Markdown table and a CSV out."""

import csv
import io
import statistics

from .plan import MODES, TRANSPORTS, WORKLOADS, counted

# (figure, heading, digits after the point)
COLUMNS = [
    ("total_ms", "total ms", 0),
    ("own_total_ms", "total ms, by its own account", 0),
    ("blackout_ms", "blackout ms", 1),
    ("own_downtime_ms", "downtime ms, by its own account", 0),
    ("demand_p50_us", "demand p50 us", 0),
    ("demand_p99_us", "p99 us", 0),
    ("demand_max_us", "max us", 0),
    ("asked_p50_us", "asked p50 us", 0),
    ("asked_p99_us", "asked p99 us", 0),
    ("lost_ms", "lost ms", 0),
    ("cpu_s", "CPU s", 2),
    ("after", "speed after", 2),
    ("requested_pages", "pages asked for", 0),
    ("transferred_mib", "MiB sent", 0),
    ("before_switch_mib", "before the switch", 0),
    ("times_sent", "times over", 2),
    ("beyond_mib", "beyond RAM MiB", 1),
    ("beyond_used_mib", "beyond used RAM MiB", 1),
]
LINK_COLUMNS = [("link_used_percent", "link used %", 1)]
# What may change with the guest's size.
SCALED_COLUMNS = [
    ("total_ms", "total ms", 0),
    ("total_ms_per_gib", "total ms per GiB", 0),
    ("blackout_ms", "blackout ms", 1),
    ("requested_pages", "pages asked for", 0),
    ("requested_per_s", "pages asked for per s", 0),
    ("demand_p99_us", "demand p99 us", 0),
    ("beyond_mib", "beyond RAM MiB", 1),
]
OWN_DEMAND = [("own_demand_p50_us", "p50 us", 0), ("own_demand_p99_us", "p99 us", 0), ("own_demand_max_us", "max us", 0)]

LEGEND = """\
Medians, with the least and the greatest in brackets.

- *total*: from the command to the event `completed` of the side that is later
- *blackout*: from the last byte of the source's serial port to the first of the destination's, seen from outside;
  the guest sends a byte every {interval} ms
- *demand*: visits slower than 20 us while postcopy ran, by the guest's own clock; among them are visits to pages
  that had come, but were not mapped by KVM yet
- *asked*: the slowest of these, as many as pages were requested
- *lost*: guest work missing 2 s after the end, in ms of undisturbed guest time
- *CPU*: both processes, from the command to the end, the guest's own work included
- *speed after*: in the second second after the end; 1 is the speed before
- *times over*: pages sent, divided by the pages that the guest has
- *beyond RAM*: the most memory that either process had up to the end, less the guest's RAM
- *beyond used RAM*: the same, less only the part of RAM that the guest uses"""
LINK_LEGEND = """\
The link carries {rate:,.0f} Mbit/s in each direction. *link used*: the bytes that reached the destination while postcopy
ran, divided by what the link could have carried in that time. TCP and Ethernet leave 95% of it for the data."""


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


def median_ratio(by_vmm, figure):
    """The median of the ratios, or None."""
    found = ratios(by_vmm, figure)
    return statistics.median(found) if found else None


def ratio(by_vmm, figure):
    """The median ratio as text."""
    found = median_ratio(by_vmm, figure)
    return "-" if found is None else f"**{found:.2f}**"


def pairs(by_vmm):
    """How many pairs of runs the ratios are of."""
    return str(len(ratios(by_vmm, "total_ms")))


def row(cells):
    return "| " + " | ".join(cells) + " |"


def markdown(runs, thrown_out, versions, choice, skipped, link_rate, host):
    """What was measured: a table for each transport, and what comes of more memory and more vCPUs."""
    main = [run for run in runs if run.case.settings == choice.main]
    parts = [preface(runs, versions, choice, host)]
    for transport, name in TRANSPORTS.items():
        over = [run for run in main if run.case.transport == transport]
        if over and transport == "link":
            parts.append(f"### Over {name}\n\n{LINK_LEGEND.format(rate=link_rate / 1e6)}\n\n" + table(over, COLUMNS + LINK_COLUMNS))
        elif over:
            parts.append(f"### Over {name}\n\n" + table(over, COLUMNS))
    parts += list(filter(None, [scaled(runs, choice), own_account(main)]))
    failures = [f"- {run.case}: {run.failure}" for run in runs if run.failure]
    if failures:
        parts.append(f"### Failed: {len(failures)} of {len(runs)} runs\n\n" + "\n".join(failures))
    if thrown_out:
        reasons = [f"- {run.case}: {run.wrong_mode}" for run in thrown_out]
        parts.append(f"### Thrown out, as not of its mode, and measured again: {counted(len(thrown_out), 'run')}\n\n" + "\n".join(reasons))
    if skipped:
        reasons = [f"- {counted(count, 'run')}: {why}" for why, count in skipped.items()]
        parts.append(f"### Skipped: {counted(sum(skipped.values()), 'run')}\n\n" + "\n".join(reasons))
    return "\n\n".join(parts) + "\n"


def preface(runs, versions, choice, host):
    """What was compared, and what the columns mean."""
    intervals = [run.figures["byte_interval_ms"] for run in good(runs) if run.figures["byte_interval_ms"]]
    interval = f"{statistics.median(intervals):.2f}" if intervals else "?"
    names = " and ".join(versions.values())
    size = choice.main
    words = [
        f"{names}; {counted(size.cpus, 'vCPU')}, {size.memory_mib} MiB of RAM of which {size.working_set} is visited; "
        f"{counted(choice.reps, 'repetition')}, interleaved. Host: {host}.",
        "",
        *(f"- {name}: {text}" for name, (_, text) in WORKLOADS.items()),
        *(f"- {name}: {text}" for name, text in MODES.items() if name in choice.modes),
        "",
        LEGEND.format(interval=interval),
    ]
    return "\n".join(words)


def table(runs, columns):
    """One row for each VMM, workload and mode, and one of ratios under each pair."""
    heads = ["workload", "mode", "VMM", "runs"] + [heading for _, heading, _ in columns]
    out = [row(heads), row(["---"] * 3 + ["---:"] * (len(heads) - 3))]
    for (_, workload, mode), by_vmm in groups(runs).items():
        for vmm, some in sorted(by_vmm.items(), reverse=True):
            well = good(some)
            cells = [spread([run.figures.get(figure) for run in well], digits) for figure, _, digits in columns]
            out.append(row([workload, mode, vmm, passed(some), *cells]))
        if {"whimbrel", "qemu"} <= by_vmm.keys():
            compared = [ratio(by_vmm, figure) for figure, _, _ in columns]
            out.append(row([workload, mode, "*whimbrel / qemu*", pairs(by_vmm), *compared]))
    return "\n".join(out)


def by_size(runs, sizes):
    """{size: {vmm: [runs]}} of the kind of migration that all sizes went through."""
    result = {}
    for size in sizes:
        for run in runs:
            if run.case.settings == size:
                result.setdefault(size, {}).setdefault(run.case.vmm, []).append(run)
    return result


def scaled(runs, choice):
    """One row for each size and VMM, and one of ratios under each pair; nothing if there was one size only."""
    if not choice.scaled:
        return ""
    kind = choice.scaled_kind
    heads = ["vCPUs", "visited", "VMM", "runs"] + [heading for _, heading, _ in SCALED_COLUMNS]
    out = [row(heads), row(["---:", "---:", "---"] + ["---:"] * (len(heads) - 3))]
    for size, by_vmm in by_size([run for run in runs if run.case.kind == kind], [choice.main, *choice.scaled]).items():
        for vmm, some in sorted(by_vmm.items(), reverse=True):
            well = good(some)
            cells = [spread([run.figures.get(figure) for run in well], digits) for figure, _, digits in SCALED_COLUMNS]
            out.append(row([str(size.cpus), size.working_set, vmm, passed(some), *cells]))
        if {"whimbrel", "qemu"} <= by_vmm.keys():
            compared = [ratio(by_vmm, figure) for figure, _, _ in SCALED_COLUMNS]
            out.append(row([str(size.cpus), size.working_set, "*whimbrel / qemu*", pairs(by_vmm), *compared]))
    transport, workload, mode = kind
    return f"### More vCPUs, more memory: {mode} of a {workload} guest over {TRANSPORTS[transport]}\n\n" + "\n".join(out)


def passed(runs):
    """How many runs succeeded, and how many did not."""
    well = len(good(runs))
    return f"{well}" if well == len(runs) else f"{well}, {len(runs) - well} FAILED"


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
    heads = ["transport", "workload", "mode", "VMM"] + [heading for _, heading, _ in OWN_DEMAND]
    out = [row(heads), row(["---"] * 4 + ["---:"] * 3), *out]
    return "### Demand pages by the VMM's own account: from the fault to the page in place\n\n" + "\n".join(out)


def as_csv(runs):
    """Every run with every figure, those that were thrown out, too."""
    names = list(dict.fromkeys(name for run in runs for name in run.figures))
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["transport", "workload", "mode", "memory_mib", "working_set", "cpus", "repetition", "vmm", *names, "failure", "thrown_out"])
    for run in runs:
        case = run.case
        values = (run.figures.get(name) for name in names)
        shown = [f"{value:.3f}" if isinstance(value, float) else value for value in values]
        size = [case.settings.memory_mib, case.settings.working_set, case.settings.cpus]
        out.writerow([case.transport, case.workload, case.mode, *size, case.rep + 1, case.vmm, *shown, run.failure or "", run.wrong_mode or ""])
    return text.getvalue()
