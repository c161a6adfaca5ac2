"""Runs in, what README says of them out, so that nobody types figures anew."""

import shlex

from .goals import middle
from .plan import AFTER_A_PASS, PRECOPY, counted
from .table import good, groups, median_ratio, number, row

FIGURES = [("blackout_ms", "blackout ms", 1), ("total_ms", "total ms", 0), ("lost_ms", "work lost ms", 0)]
DEMANDED = [("requested_pages", "pages asked for", 0), ("asked_p50_us", "p50 us", 0), ("asked_p99_us", "p99 us", 0), ("after", "speed after", 2)]


def command(arguments):
    """The command that gave the run, without what depends on the machine."""
    words = []
    skip = False
    for word in arguments:
        if skip or word == "--docs" or word.startswith("--out"):
            skip = word == "--out"
        elif word.startswith("--with-qemu=") and "newest-qemu" in word:
            words.append('--with-qemu="$(scripts/newest-qemu)"')
        elif word.startswith("--with-qemu="):
            words.append("--with-qemu")
        else:
            words.append(shlex.quote(word))
    return " ".join(["scripts/compare_modes", *words])


def markdown(runs, thrown_out, versions, choice, host, arguments):
    """README's section: what was run, the tables, and what they do not show at a glance."""
    size = choice.main
    main = groups([run for run in runs if run.case.settings == size])
    failed = sum(run.failure is not None for run in runs)
    damage = "no byte was wrong" if not any((run.figures.get("errors") or 0) for run in runs) else "BYTES WERE WRONG"
    judged = f"{counted(len(runs), 'migration')}: {counted(failed, 'failure') if failed else 'none failed'}, {damage}"
    if thrown_out:
        judged += f"; {counted(len(thrown_out), 'more run')} thrown out, as not of the mode asked for"
    words = [
        f"One run of `{command(arguments)}`. The guest has {counted(size.cpus, 'vCPU')} and {size.memory_mib} MiB of RAM; {size.working_set} of it "
        f"is visited and not zero. {' and '.join(versions.values())} ran in turn, source and destination on one machine: {host}. "
        f"Medians of {choice.reps}; the ratio is Whimbrel / QEMU, pair by pair. {judged}.",
        table(main, FIGURES, lambda mode: True),
    ]
    if any(mode not in PRECOPY for _, _, mode in main):
        words += ["The pages that were demanded, and the guest's speed in the second second after the end (1 is the speed before):"]
        words += [table(main, DEMANDED, lambda mode: mode not in PRECOPY)]
    return "\n\n".join([*words, *slower(main)])


def table(found, columns, wanted):
    """A row for each workload, mode and transport."""
    heads = ["case", *(cell for _, heading, _ in columns for cell in (f"{heading}, ours / QEMU's", "ratio"))]
    out = [row(heads), row(["---"] + ["---:"] * (len(heads) - 1))]
    for (transport, workload, mode), by_vmm in found.items():
        if wanted(mode):
            cells = [cell for figure, _, digits in columns for cell in compared(by_vmm, figure, digits)]
            out.append(row([f"{workload}, {mode}, {transport}", *cells]))
    return "\n".join(out)


def compared(by_vmm, figure, digits):
    """Ours and QEMU's in one cell, the ratio in the next."""
    both = " / ".join(number(middle(by_vmm.get(vmm, []), figure), digits) for vmm in ("whimbrel", "qemu"))
    return both, number(median_ratio(by_vmm, figure), 2)


def slower(found):
    """A sentence on the panels in which the pages demanded of a hybrid come later than QEMU's, if there are any."""
    hybrids = {kind: by_vmm for kind, by_vmm in found.items() if kind[2] in AFTER_A_PASS and good(by_vmm.get("qemu", []))}
    words = []
    for figure, name in (("asked_p50_us", "median"), ("asked_p99_us", "99th percentile")):
        worse = [f"{workload} {mode} {transport}" for (transport, workload, mode), by_vmm in hybrids.items() if (median_ratio(by_vmm, figure) or 0) > 1]
        if worse:
            words.append(f"by their {name} in {len(worse)} of {len(hybrids)} rows ({', '.join(worse)})")
    return [f"The few pages that a hybrid demands come later than QEMU's {' and '.join(words)}."] if words else []
