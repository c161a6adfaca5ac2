"""The commands of the README's walk-through: read from there, so that what is proved is what is written."""

import re

from ..build import ROOT
from ..progress import LabFailed

README = ROOT / "README.md"
HEADING = "A Debian guest with a disk, moved between two hosts"

# The bold words before each block, which say where it is to be run.
ONCE = "Once"
BOTH = "On both hosts"
SECOND = "On the second host"
FIRST = "On the first host"
MOVE = "On the first host, in another terminal"
PLACES = [ONCE, BOTH, SECOND, FIRST, MOVE]


def read(text):
    """The blocks of the walk-through by place. One that is missing, or that nobody knows where to run, raises `LabFailed`."""
    section = re.search(rf"^## {re.escape(HEADING)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not section:
        raise LabFailed(f"README.md has no section '{HEADING}'")
    found = [(_place(before), block) for before, block in _blocks(section[1])]
    if [place for place, _ in found] != PLACES:
        raise LabFailed(f"the walk-through in README.md has blocks for {[place for place, _ in found]}, but the lab knows how to run {PLACES}")
    return dict(found)


def _blocks(section):
    """Each block of commands with the text between it and the one before."""
    pieces = re.split(r"^```sh\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return zip(pieces[0::2], pieces[1::2])


def _place(before):
    bold = re.findall(r"\*\*(.+?)\*\*", before)
    return bold[-1] if bold else "nowhere"
