"""Tests of how the documentation is laid out. Whether its paths and links lead somewhere is a matter of tests/architecture."""

import unittest

from . import ROOT, left_to_fill_in, pages, sentences, too_long


class Prose(unittest.TestCase):
    def test_no_line_of_a_page_is_longer_than_a_hundred_columns(self):
        found = [f"{page.relative_to(ROOT)}:{number}" for page in pages() for number in too_long(page.read_text())]
        self.assertEqual(found, [], "wrap these lines at 100 columns")

    def test_nothing_is_left_to_be_filled_in(self):
        self.assertEqual([page.name for page in pages() if left_to_fill_in(page.read_text())], [])
        self.assertEqual(left_to_fill_in("## Measured\n\nMEASURED\n\n```\nEXAMPLE\n```\n"), ["MEASURED"])

    def test_tables_code_and_links_may_be_longer(self):
        words = "word " * 30
        self.assertEqual(too_long(f"| {words} |\n```\n{words}\n```\n<!-- generated: it -->\n{words}\n<!-- end -->\n"), [])
        self.assertEqual(too_long(f"- [{'a' * 120}](b)\n\n{words}\n"), [3])

    def test_sentences_are_told_apart(self):
        self.assertEqual([len(it) for it in sentences("It runs. It stops!\n\n- One `a. B` item\n- And another\n")], [2, 2, 3, 2])
