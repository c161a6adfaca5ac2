"""Tests of what needs no virtual machine: python3 -m unittest discover -s scripts/lib -p 'tests.py' -t scripts/lib

The end-to-end tests compare all of this with `whimbrel analyze`, on streams of real guests.
"""

import io
import json
import os
import struct
import tempfile
import unittest
from contextlib import closing

from . import source, text
from .extract import Extract
from .grammar import Grammar, Unusable
from .walk import HELLO, Walk

PAGE = 16
# No more than it needs, and not what any version of Whimbrel sends: all that is known of it is the description.
DESCRIPTION = {
    "page-size": PAGE,
    "types": {
        "run": [["block", "u8"], ["first", "u8"], ["count", "u8"]],
        "block": [["name", "text:u32"], ["guest address", "u64"], ["pages", "u16"]],
        "section": [["name", "text:u32"], ["instance", "u8"], ["version", "u8"], ["bytes", "bytes:u32"]],
    },
    "messages": {
        "3": {"name": "about", "longest": 9999, "body": [["text", "text:end"]]},
        "7": {"name": "memory", "longest": 99, "means": "blocks", "body": [["all", {"list": "u32", "of": "block"}]]},
        "8": {"name": "content", "longest": 999, "means": "pages:raw", "body": [["run", "run"], ["it", "contents"]]},
        "9": {"name": "nothing", "longest": 99, "means": "pages:zero", "body": [["runs", {"list": "end", "of": "run"}]]},
        "10": {"name": "devices", "longest": 999, "means": "state", "body": [["all", {"list": "1", "of": "section"}]]},
        "11": {"name": "round", "longest": 4, "means": "pass-begin", "body": [["pass", "u32"]]},
        "12": {"name": "bye", "longest": 0, "means": "end", "body": []},
        "13": {"name": "packed", "longest": 99, "means": "pages:zip", "body": [["run", "run"], ["it", "bytes:end"]]},
    },
    "state": [{"name": "toy", "version": 2, "fields": [["n", "u8"], ["items", {"list": "=n", "of": [["i", "i64"]]}]]}],
}


def named(name):
    return struct.pack("<I", len(name)) + name.encode()


def message(tag, body=b""):
    return struct.pack("<HHI", tag, 0, len(body)) + body


def contents(first, count, byte):
    return message(8, bytes([0, first, count]) + bytes([byte]) * PAGE * count)


def parts(description=DESCRIPTION):
    state = named("toy") + bytes([4, 2]) + struct.pack("<IBq", 9, 1, -5)
    return [
        struct.pack("<8sHHBB18xQ", b"WHIMBREL", 1, 1, 0, 0, 2),
        message(7, struct.pack("<I", 1) + named("../ram") + struct.pack("<QH", 1 << 33, 20)),
        message(3, json.dumps(description).encode()),
        message(11, struct.pack("<I", 1)),
        contents(1, 3, 0xAA),
        message(9, bytes([0, 2, 1, 0, 9, 11])),
        message(10, state),
        message(12),
    ]


def walk(data, offset=0, extract=None):
    with tempfile.TemporaryDirectory() as room:
        path = os.path.join(room, "stream")
        with open(path, "wb") as file:
            file.write(data)
        with closing(source.Input(path, offset)) as input, closing(extract or io.BytesIO()):
            return Walk(input, extract).run()


class Streams(unittest.TestCase):
    def test_a_whole_stream_is_read_by_its_own_description(self):
        data = b"before" + b"".join(parts())
        report = walk(data + b"behind", 6).json()
        self.assertEqual((report["damage"], report["end"], report["behind"]), ([], len(data), 6))
        (block,) = report["blocks"]
        self.assertEqual((block["come"], block["sent"]), (14, {"content": 3, "nothing": 12}))
        self.assertEqual([stage["stage"] for stage in report["stages"]], ["introduction", "pass 1"])
        self.assertEqual(sum(one["bytes"] for one in report["messages"]), len(data) - 6 - HELLO)
        self.assertIn("  toy 4, version 2, 9 bytes at byte", "\n".join(text.summary(report)))

    def test_states_are_read_field_by_field(self):
        (state,) = walk(b"".join(parts())).state
        self.assertEqual(state["fields"], {"n": 1, "items": [{"i": -5}]})
        self.assertEqual(list(text.state_lines([state]))[1:], ["  n: 1", "  items 0:", "    i: -5"])

    def test_a_stream_cut_anywhere_says_where(self):
        data = b"".join(parts())
        for cut in range(0, len(data), 7):
            (damage,) = walk(data[:cut]).damage
            self.assertEqual(damage["offset"], cut if cut >= 8 else 0, damage)

    def test_what_was_extracted_is_what_came_last(self):
        with tempfile.TemporaryDirectory() as room:
            there = os.path.join(room, "there")
            self.assertEqual(walk(b"".join(parts()), extract=Extract(there)).damage, [])
            with open(os.path.join(there, "_._ram.ram"), "rb") as file:
                ram = file.read()
            self.assertEqual([ram[page * PAGE] for page in range(5)], [0, 0xAA, 0, 0xAA, 0])
            self.assertEqual(len(ram), 20 * PAGE)
            with open(os.path.join(there, "toy.4.json"), encoding="utf-8") as file:
                self.assertEqual(json.load(file)["n"], 1)
            with self.assertRaises(FileExistsError):
                Extract(there).state("toy", 4, b"", None)

    def test_pages_in_an_unknown_encoding_are_counted_but_not_extracted(self):
        data = parts()
        data[4] = message(13, bytes([0, 1, 3]) + b"packed")
        self.assertEqual(walk(b"".join(data)).blocks[0].sent["packed"], 3)
        with tempfile.TemporaryDirectory() as room:
            (damage,) = walk(b"".join(data), extract=Extract(room)).damage
            self.assertIn("'zip' cannot be extracted", damage["why"])

    def test_damage_is_named_with_its_place(self):
        begin = [sum(map(len, parts()[:number])) for number in range(len(parts()))]
        for number, at, byte, place, why in [
            (4, 0, 99, begin[4], "knows no message 99"),
            (4, 2, 1, begin[4], "flags are 0x1"),
            (4, 6, 1, begin[4], "more than the 999"),
            (4, 8, 1, begin[4] + 8, "names block 1"),
            (4, 9, 18, begin[4] + 8, "beyond the end of block"),
            (4, 10, 4, begin[4] + 11, "too short for the contents of 4"),
            (4, 10, 2, begin[4] + 11 + 2 * PAGE, "16 bytes are left"),
            (6, 8 + 7 + 2 + 4, 9, begin[7] - 8, "ends inside its field 'items'"),
            (2, 8, ord("}"), begin[2], "is not JSON"),
        ]:
            data = [bytearray(part) for part in parts()]
            data[number][at] = byte
            damage = walk(b"".join(data)).damage[0]
            self.assertIn(why, damage["why"])
            self.assertEqual(damage["offset"], place, damage)

    def test_a_description_that_makes_no_sense_is_refused(self):
        for odd in ["u128", "later", "bytes:-1", [["a"]], {"list": "u32", "of": "bytes:0"}, {"list": "u32", "of": []}, {"if": "a", "then": "u8"}]:
            with self.assertRaises(Unusable, msg=odd):
                Grammar(json.dumps(DESCRIPTION | {"types": {"odd": odd}}).encode())
        for said in [b"[]", b"NaN", b'{"a": "\\ud800"}', b"\xff", b"[" * 100000]:
            with self.assertRaises(Unusable, msg=said[:20]):
                Grammar(said)

    def test_a_grammar_that_goes_on_for_ever_comes_to_an_end(self):
        types = dict(DESCRIPTION["types"], t0=[])
        for level in range(1, 31):
            types[f"t{level}"] = [["a", f"t{level - 1}"], ["b", f"t{level - 1}"]]
        state = [{"name": "toy", "version": 2, "fields": [["all", "t30"]]}]
        (damage,) = walk(b"".join(parts(DESCRIPTION | {"types": types, "state": state}))).damage
        self.assertIn("more values", damage["why"])

    def test_a_pipe_is_read_to_its_end(self):
        input = source.Input.__new__(source.Input)
        input.file, input.length, input.at, input.said = io.BytesIO(b"".join(parts())), None, 0, float("inf")
        self.assertEqual(Walk(input).run().damage, [])

    def test_a_terminal_is_shown_no_control_characters(self):
        self.assertEqual(text.plain("a\x1b[2J\x9b"), "a?[2J?")


if __name__ == "__main__":
    unittest.main()
