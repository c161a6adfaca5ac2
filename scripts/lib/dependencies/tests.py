"""Licences are read and chosen, and the texts that they ask for are found."""

import tempfile
import unittest
from pathlib import Path

from .licences import Unreadable, chosen
from .notices import NoText, built_in, notices


def package(folder, name, licence, **files):
    room = Path(folder) / name
    room.mkdir()
    for file, text in files.items():
        (room / file.replace("_", "-")).write_text(text)
    return {"name": name, "version": "1.0.0", "license": licence, "manifest_path": str(room / "Cargo.toml")}


class Licences(unittest.TestCase):
    def test_of_a_choice_apache_is_taken_then_mit(self):
        for expression, taken in [
            ("MIT OR Apache-2.0", ["Apache-2.0"]),
            ("MIT/Apache-2.0", ["Apache-2.0"]),
            ("Unlicense OR MIT", ["MIT"]),
            ("BSD-3-Clause OR Apache-2.0", ["Apache-2.0"]),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", ["Apache-2.0", "Unicode-3.0"]),
            ("Apache-2.0 AND ISC", ["Apache-2.0", "ISC"]),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", ["Apache-2.0"]),
            ("Zlib", ["Zlib"]),
        ]:
            self.assertEqual(chosen(expression), taken, expression)

    def test_what_is_no_expression_is_refused(self):
        for expression in ("", "MIT OR", "(MIT", "MIT Apache-2.0", "AND MIT", "MIT)"):
            with self.assertRaises(Unreadable, msg=expression):
                chosen(expression)


class Notices(unittest.TestCase):
    def test_texts_stand_once_and_where_they_are_asked_for(self):
        with tempfile.TemporaryDirectory() as folder:
            text = notices([
                package(folder, "free", "MIT OR Apache-2.0", LICENSE_MIT="not needed"),
                package(folder, "noted", "Apache-2.0", NOTICE="by somebody", LICENSE="long"),
                package(folder, "one", "MIT", LICENSE_MIT="the words\n", LICENSE_APACHE="long"),
                package(folder, "two", "MIT", LICENSE="the words  "),
            ])
        self.assertIn("free 1.0.0: Apache-2.0\n", text)
        self.assertIn("noted 1.0.0\n\nby somebody\n", text)
        self.assertIn("one 1.0.0, two 1.0.0\n\nthe words\n", text)
        self.assertNotIn("not needed", text)
        self.assertNotIn("long", text)

    def test_a_text_that_is_missing_is_named(self):
        with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(NoText, "bare 1.0.0 is under MIT"):
            notices([package(folder, "bare", "MIT")])

    def test_only_what_is_built_in_counts(self):
        names = {"ours": "bin", "used": "lib", "tested": "lib", "derives": "proc-macro", "deep": "lib", "generates": "lib"}
        packages = [{"id": it, "name": it, "version": "1", "targets": [{"kind": [kind]}]} for it, kind in names.items()]
        dependency = lambda name, kind=None: {"pkg": name, "dep_kinds": [{"kind": kind}]}
        nodes = {
            "ours": [dependency("used"), dependency("tested", "dev"), dependency("derives"), dependency("generates", "build")],
            "used": [dependency("deep")],
            "derives": [dependency("tested")],
        }
        resolve = {"nodes": [{"id": it, "deps": nodes.get(it, [])} for it in names]}
        data = {"packages": packages, "resolve": resolve, "workspace_members": ["ours"]}
        self.assertEqual([it["name"] for it in built_in(data, "ours")], ["deep", "used"])


if __name__ == "__main__":
    unittest.main()
