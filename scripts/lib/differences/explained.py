"""The differences that docs/qemu-compatibility.md explains: rows of a table, each with a pattern (of fnmatch) and a reason."""

import fnmatch
from collections import namedtuple

BEGIN = "<!-- differences -->\n"
END = "<!-- end -->\n"

ROWS = "<!-- generated: {} -->\n"

Reason = namedtuple("Reason", "pattern why")


def reasons(document):
    """The rows of the table."""
    table = document.split(BEGIN)[1].split(END)[0]
    found = []
    for line in table.splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        found += [Reason(pattern.replace("\\|", "|"), cells[-1]) for pattern in cells[0].split("`")[1::2]]
    return found


def names(document, kind):
    """The first column of one of the other tables: `programs`, `events` and so on."""
    table = document.split(ROWS.format(kind))[1].split(END)[0]
    return [line.split("`")[1] for line in table.splitlines()[2:]]


def _matches(difference, reason):
    # Only `*` is a pattern: brackets are QMP's arrays.
    return fnmatch.fnmatchcase(difference.what, reason.pattern.replace("[", "[[]"))


def sort_out(differences, known):
    """(unexplained differences, [(difference, reason)], reasons that explain nothing)."""
    open_ones, explained, used = [], [], set()
    for difference in differences:
        reason = next((it for it in known if _matches(difference, it)), None)
        if reason:
            explained.append((difference, reason))
            used.add(reason)
        else:
            open_ones.append(difference)
    return open_ones, explained, [it for it in known if it not in used]
