"""Tests of how the documentation is laid out."""

import unittest

from . import sentences, too_long


class Prose(unittest.TestCase):
    def test_tables_code_and_links_may_be_longer(self):
        words = "word " * 30
        self.assertEqual(too_long(f"| {words} |\n```\n{words}\n```\n<!-- generated: it -->\n{words}\n<!-- end -->\n"), [])
        self.assertEqual(too_long(f"- [{'a' * 120}](b)\n\n{words}\n"), [3])

    def test_sentences_are_told_apart(self):
        self.assertEqual([len(it) for it in sentences("It runs. It stops!\n\n- One `a. B` item\n- And another\n")], [2, 2, 3, 2])
