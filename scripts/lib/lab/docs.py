"""The figures of a full run on docs/lab.md."""

import os
import time

from .build import ROOT
from .progress import LabFailed

PAGE = ROOT / "docs" / "lab.md"
BEGIN, END = "<!-- generated: scripts/lab --full --docs -->", "<!-- end -->"


def setting(description, seconds, slots, seed):
    """What the run was, in a sentence."""
    day = time.strftime("%Y-%m-%d")
    return f"{day}: {description}; {os.cpu_count()} processors, {slots} cases at a time; {seconds / 60:.0f} minutes; random seed {seed}."


def write(text, run, page=PAGE, marks=(BEGIN, END)):
    """Puts the table between the marks of the page."""
    begin, end = marks
    before, _, rest = page.read_text().partition(begin)
    after = rest.partition(end)[2]
    if end not in rest:
        raise LabFailed(f"{page} has no lines '{begin}' and '{end}' to put the figures between")
    page.write_text(f"{before}{begin}\n\n{run}\n\n{text}\n\n{end}{after}")
