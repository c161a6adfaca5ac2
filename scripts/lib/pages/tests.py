"""Whether README and docs speak of what is there. What programs print is held to them by tests of its own."""

import re
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "postcopy" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# A path of this repository, in backquotes.
PATH = re.compile(r"`((?:src|postcopy|tests|scripts|docs)/[A-Za-z0-9_./-]+)`")
LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")
# Named as another project's, or built.
NOT_OURS = {"scripts/analyze-migration.py"}


def missing_paths(text, *folders):
    """The paths that a page names and that are in none of the folders."""
    there = lambda path: any((folder / path).exists() for folder in folders)
    return sorted({path for path in PATH.findall(text) if path not in NOT_OURS and not there(path)})


def missing_links(text, folder):
    """The files that a page links to and that are not there."""
    return sorted({path for path, _ in LINK.findall(text) if not (folder / path).exists()})


def left_to_fill_in(text):
    """Lines that stand for something that was to come: one word in capitals, alone."""
    return re.findall(r"^[A-Z]{4,}$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)


class Pages(unittest.TestCase):
    def test_a_page_that_is_wrong_is_found_out(self):
        self.assertEqual(missing_paths("`src/nothing.rs` and `src/`", ROOT), ["src/nothing.rs"])
        self.assertEqual(missing_links("[a](nothing.md#b), [c](https://x.org), [d](README.md)", ROOT), ["nothing.md"])
        self.assertEqual(left_to_fill_in("## Measured\n\nMEASURED\n\n```\nEXAMPLE\n```\n"), ["MEASURED"])

    def test_every_path_that_is_named_is_there(self):
        for page in PAGES:
            self.assertEqual(missing_paths(page.read_text(), ROOT, page.parent), [], page.name)

    def test_every_link_leads_somewhere(self):
        for page in PAGES:
            self.assertEqual(missing_links(page.read_text(), page.parent), [], page.name)

    def test_nothing_is_left_to_be_filled_in(self):
        for page in PAGES:
            self.assertEqual(left_to_fill_in(page.read_text()), [], page.name)


if __name__ == "__main__":
    unittest.main()
