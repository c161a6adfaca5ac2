"""The result as a table."""

HEAD = ["#", "scenario", "mode", "moves", "ping blackout", "console blackout", "total", "downtime", "pings lost", "errors"]


def table(outcomes):
    """Markdown that is aligned for people as well. Of several moves the longest of each figure stands there."""
    rows = [HEAD, *(row(outcome) for outcome in outcomes)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(HEAD))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def row(outcome):
    """One outcome's cells."""
    case, moves = outcome.case, outcome.moves
    return [
        case.scenario, case.title, case.mode, str(len(moves)) if moves else "-", milliseconds(it.ping_gap for it in moves),
        milliseconds(it.console_blackout for it in moves), seconds(it.total for it in moves), milliseconds(it.downtime for it in moves),
        total(it.ping_lost for it in moves), "FAILED" if outcome.failure else "0",
    ]  # fmt: skip


def milliseconds(values):
    """The longest of some times, given in seconds."""
    known = [it for it in values if it is not None]
    return f"{max(known) * 1000:.0f} ms" if known else "-"


def seconds(values):
    """The longest of some times, given in seconds."""
    known = [it for it in values if it is not None]
    return f"{max(known):.1f} s" if known else "-"


def total(values):
    """The sum of some counts."""
    known = [it for it in values if it is not None]
    return str(sum(known)) if known else "-"


def verdict(outcomes):
    """The last line, as other tests of this project print it."""
    failed = sum(outcome.failure is not None for outcome in outcomes)
    word = "FAILED" if failed else "ok"
    return f"test result: {word}. {len(outcomes) - failed} passed; {failed} failed; 0 ignored"
