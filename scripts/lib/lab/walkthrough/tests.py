"""Tests of what the walk-through reads and watches. None boots anything."""

import os
import threading
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest import mock

from .. import tools
from ..progress import LabFailed
from . import blocks, once
from .run import run
from .terminal import Screen, Terminal


class Blocks(unittest.TestCase):
    def readme(self, places):
        pieces = [f"**{place}**, some *words*:\n\n```sh\nrun \\\n    {number}\n```\n" for number, place in enumerate(places)]
        return f"# Whimbrel\n\n```sh\nother\n```\n\n## {blocks.HEADING}\n\n{''.join(pieces)}\n## Next\n\n```sh\nother\n```\n"

    def test_each_block_is_found_with_its_place_and_those_of_other_sections_are_not(self):
        found = blocks.read(self.readme(blocks.PLACES))
        self.assertEqual(found, {place: f"run \\\n    {number}\n" for number, place in enumerate(blocks.PLACES)})

    def test_a_block_for_a_place_that_nobody_knows_is_an_error(self):
        for places in ([*blocks.PLACES, "On the third host"], blocks.PLACES[1:], blocks.PLACES[::-1]):
            with self.assertRaisesRegex(LabFailed, "knows how to run"):
                blocks.read(self.readme(places))
        with self.assertRaisesRegex(LabFailed, "no section"):
            blocks.read("# Whimbrel\n")

    def test_the_readme_is_what_the_lab_can_walk_through(self):
        found = blocks.read(blocks.README.read_text())
        self.assertIn("whimbrel migrate", found[blocks.MOVE])
        self.assertIn("--incoming", found[blocks.SECOND])


class Line:
    """Stands in for the connection to an agent."""

    def __init__(self, frames):
        self.frames = iter(frames)
        self.sent = []
        self.more = threading.Event()

    def send(self, kind, content=b""):
        self.sent.append((kind, content))

    def give(self, data):
        self.sent.append(("i", data))
        self.more.set()

    def receive(self):
        frame = next(self.frames)
        if frame is None:
            self.more.wait(10)
            return self.receive()
        return frame

    def close(self):
        self.more.set()


class Screens(unittest.TestCase):
    def terminal(self, *frames):
        line = Line(frames)
        hand = SimpleNamespace(put=lambda *_: None, line=lambda: line)
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        terminal = Terminal(SimpleNamespace(name="a", hand=hand), "first", "true\n", Path(folder.name))
        self.addCleanup(terminal.close)
        return terminal, line

    def test_output_comes_until_the_status(self):
        screen = Screen(Line([("o", b""), ("o", b"x"), ("e", b"y"), ("x", b"3")]))
        self.assertEqual([screen.recv(1), screen.recv(1), screen.recv(1), screen.status], [b"x", b"y", b"", 3])

    def test_what_was_seen_is_not_seen_again_and_lines_need_no_end(self):
        terminal, line = self.terminal(("o", b"one login: "), None, ("o", b"ro"), ("o", b"ot\r\nlogin: "), ("x", b"0"))
        terminal.expect("login: ", 5)
        terminal.type("root\n")
        self.assertEqual(terminal.expect(r"(.*)\nlogin: ", 5)[1], "root")
        self.assertEqual(terminal.finish(5), 0)
        self.assertIn(("i", b"root\n"), line.sent)

    def test_what_does_not_come_is_named_with_the_last_words(self):
        terminal, _ = self.terminal(("o", b"panic\n"), ("x", b"1"))
        self.assertEqual(terminal.finish(5), 1)
        with self.assertRaisesRegex(LabFailed, "first on host a ended .* 'login'; first on host a last said 'panic'"):
            terminal.expect("login", 5)


class Once(unittest.TestCase):
    def test_what_is_missing_is_named(self):
        with mock.patch.object(tools, "SEARCHED", "/nowhere"):
            self.assertIn("mmdebstrap", once.obstacle())
        with mock.patch.object(tools, "path", lambda name: name), mock.patch.object(os, "geteuid", lambda: 1000):
            self.assertIn("root", once.obstacle())

    def test_a_skip_is_counted(self):
        with mock.patch.object(once, "obstacle", lambda: "no luck"), mock.patch("builtins.print") as said:
            self.assertEqual(run(None, None), 0)
        self.assertRegex(said.call_args[0][0], r"SKIPPED: .*no luck\ntest result: ok. 0 passed; 0 failed; 1 ignored")

    def test_files_are_made_once_for_the_same_commands(self):
        made = []

        def make(block, partial, _log):
            made.append(block)
            (partial / "srv" / "vm").mkdir(parents=True)

        with TemporaryDirectory() as folder, mock.patch.object(once, "_make", make):
            progress = SimpleNamespace(say=lambda _: None)
            paths = [once.files(block, Path(folder), Path(folder), progress) for block in ("a", "a", "b")]
            self.assertEqual((made, paths[0] == paths[1], paths[1] == paths[2]), (["a", "b"], True, False))
            self.assertEqual(sorted(it.name for it in paths[0].parent.iterdir()), sorted({it.name for it in paths}))


if __name__ == "__main__":
    unittest.main()
