"""How the pages of the documentation read: `python3 -m prose` in scripts/lib says for each page how many words a sentence has."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
COLUMNS = 100


def pages():
    """README.md and everything in docs/."""
    return [ROOT / "README.md", ROOT / "postcopy/README.md", *sorted((ROOT / "docs").glob("*.md"))]


def prose(text):
    """The lines of a page that are prose, as (number, line): no code, table, heading, picture or generated part."""
    code = generated = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif line.startswith("<!--"):
            generated = "end" not in line
        elif not (code or generated or re.match(r"\s*\||#|!\[| {4}\S", line) and not re.match(r" {4}- ", line)):
            yield number, line


def too_long(text):
    """Numbers of the lines of prose that go beyond the columns there are. A single long word, such as a link, may."""
    return [number for number, line in prose(text) if len(line) > COLUMNS and " " in line.strip().lstrip("-* ")]


def left_to_fill_in(text):
    """Lines that stand for something that was to come: one word in capitals, alone."""
    return [line for _, line in prose(text) if re.fullmatch(r"[A-Z]{4,}", line)]


def sentences(text):
    """The sentences of a page's prose, each as a list of its words."""
    items = re.sub(r"(?m)^\s*(?:[-*]|\d+\.) ", "\n\n", "\n".join(line for _, line in prose(text)))
    paragraphs = re.split(r"\n\s*\n", items)
    found = []
    for paragraph in paragraphs:
        plain = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "Code", paragraph))
        found += [part.split() for part in re.split(r"(?<=[.!?])[)*\"]*\s+(?=[A-Z(*\"\[])", plain) if part.split()]
    return found
