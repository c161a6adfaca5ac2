"""Tests of what needs neither QEMU nor a virtual machine."""

import unittest
from pathlib import Path

from . import explained, schema, shape

SCHEMA = [
    {"name": "str", "meta-type": "builtin", "json-type": "string"},
    {"name": "null", "meta-type": "builtin", "json-type": "null"},
    {"name": "int", "meta-type": "builtin", "json-type": "int"},
    {"name": "E", "meta-type": "enum", "members": [{"name": "b"}, {"name": "a"}]},
    {"name": "StrOrNull", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "null"}]},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "[1]", "meta-type": "array", "element-type": "1"},
    {
        "name": "1",
        "meta-type": "object",
        "members": [{"name": "kind", "type": "E"}, {"name": "inner", "type": "1", "default": None}, {"name": "creds", "type": "StrOrNull"}],
        "tag": "kind",
        "variants": [{"case": "a", "type": "2"}, {"case": "b", "type": "0"}],
    },
    {"name": "2", "meta-type": "object", "members": [{"name": "port", "type": "int"}]},
    {"name": "migrate", "meta-type": "command", "arg-type": "1", "ret-type": "[1]", "allow-oob": True},
    {"name": "screendump", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "MIGRATION", "meta-type": "event", "arg-type": "2"},
    {"name": "VNC_CONNECTED", "meta-type": "event", "arg-type": "2"},
]


class Schema(unittest.TestCase):
    def test_a_description_is_flat_and_of_what_is_about_migrations(self):
        takes = {"kind": "a|b", "inner?": "object", "creds": "null/string", "port?": "int"}
        returns = {"[]": "object"} | {f"[].{path}": kind for path, kind in takes.items()}
        self.assertEqual(
            schema.flat(SCHEMA, set()),
            {"commands": {"migrate": {"takes": takes, "returns": returns, "out-of-band": True}}, "events": {"MIGRATION": {"port": "int"}}},
        )

    def test_others_are_there_if_they_are_named(self):
        named = schema.flat(SCHEMA, {"screendump"}, {"VNC_CONNECTED"})
        self.assertEqual((len(named["commands"]), len(named["events"])), (2, 2))


class Shape(unittest.TestCase):
    def test_members_are_told_by_type_and_words_by_themselves(self):
        self.assertEqual(
            shape.shape({"status": "active", "ram": {"total": 1, "mbps": 1.5}, "all": [{"on": True}], "none": []}),
            {
                "status": "'active'", "ram": "object", "ram.total": "number", "ram.mbps": "number", "all[]": "object", "all[].on": "boolean",
                "none[]": "array",
            },
        )  # fmt: skip
        self.assertEqual(shape.shape([{"capability": "events", "state": True}]), {"events": "boolean"})

    def test_a_text_is_told_without_its_figures(self):
        text = "Time (ms): \t\ttotal=12, setup=0\r\n  Transfers: \ttransferred=8.69 MiB, remain=0 B\r\n\tunix:/tmp/a.b/c\r\nmax: 5 bytes/second\r\n"
        self.assertEqual(
            shape.skeleton(text),
            ["Time (ms): \t\ttotal=N, setup=N", "  Transfers: \ttransferred=SIZE, remain=SIZE", "\tunix:PATH", "max: N bytes/second"],
        )
        self.assertEqual(shape.skeleton("[    16 us -  1024 us ]:          3")[0], shape.skeleton("[     1 us -     2 us ]:   1879")[0])

    def test_events_are_told_in_their_order_and_repetitions_once(self):
        events = [("MIGRATION", {"status": "active"}), *(("MIGRATION_PASS", {"pass": number}) for number in (1, 2, 3)), ("STOP", {})]
        self.assertEqual(shape.sequence(events), ["active", "PASS 1", "PASS 2+", "STOP"])

    def test_each_kind_of_difference_is_found(self):
        error = ("error", "GenericError", "no")
        qemu = {"a": ("members", {"x": "number", "y": "number"}), "b": ("events", ["STOP", "device"]), "c": error, "d": error}
        here = {"a": ("members", {"x": "string", "z": "null"}), "b": ("events", ["device", "STOP"]), "c": error, "d": ("members", {})}
        found = [difference.what for difference in shape.differences(qemu, here)]
        self.assertEqual(found[:3], ["a x", "a -y", "a +z"])
        self.assertEqual(sorted(found[3:]), ["b +STOP", "b -STOP", "d"] if "b -STOP" in found else ["b +device", "b -device", "d"])
        self.assertEqual(list(shape.differences(qemu, qemu)), [])

    def test_what_one_of_them_never_came_to_is_a_difference(self):
        (one,) = shape.differences({"a": ("text", ["x"])}, {})
        self.assertEqual((one.what, one.here), ("a: not reached", "nothing"))


class Explained(unittest.TestCase):
    DOCUMENT = (
        "x\n<!-- generated: programs -->\n| name | here |\n|---|---|\n| `migrate` | works |\n<!-- end -->\n"
        f"{explained.BEGIN}| difference | why |\n|---|---|\n| `a @ * -x[].y`, `b\\|c*` | because |\n| `d` | of that |\n{explained.END}"
    )

    def test_a_row_s_patterns_explain_and_idle_ones_are_told(self):
        known = explained.reasons(self.DOCUMENT)
        self.assertEqual([reason.pattern for reason in known], ["a @ * -x[].y", "b|c*", "d"])
        found = [shape.Difference(what, "", "") for what in ("a @ idle -x[].y", "a @ idle -x", "b|cd")]
        open_ones, told, idle = explained.sort_out(found, known)
        self.assertEqual([it.what for it in open_ones], ["a @ idle -x"])
        self.assertEqual([reason.why for _, reason in told], ["because", "because"])
        self.assertEqual([reason.pattern for reason in idle], ["d"])

    def test_the_document_is_read(self):
        document = (Path(__file__).parents[3] / "docs" / "qemu-compatibility.md").read_text(encoding="utf-8")
        self.assertTrue(all(reason.pattern and len(reason.why) > 3 for reason in explained.reasons(document)))
        self.assertIn("query-migrate", explained.names(document, "programs"))


if __name__ == "__main__":
    unittest.main()
