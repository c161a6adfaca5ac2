"""scripts/install puts everything where it belongs, and says what is wrong. The program itself is not built here."""

import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MANUALS = """#!/bin/sh
mkdir -p "$1/man1" "$1/bash" "$1/fish" "$1/zsh"
for page in whimbrel whimbrel-run; do echo ".TH $page" >"$1/man1/$page.1"; done
touch "$1/bash/whimbrel.bash" "$1/fish/whimbrel.fish" "$1/zsh/_whimbrel"
"""
FILES = {
    "bin/whimbrel",
    "share/man/man1/whimbrel.1",
    "share/man/man1/whimbrel-run.1",
    "share/bash-completion/completions/whimbrel",
    "share/fish/vendor_completions.d/whimbrel.fish",
    "share/zsh/site-functions/_whimbrel",
    "share/doc/whimbrel/README.md",
    "share/doc/whimbrel/CHANGELOG.md",
    "share/doc/whimbrel/LICENSE",
    "share/doc/whimbrel/THIRD-PARTY",
}


class Install(unittest.TestCase):
    def setUp(self):
        room = tempfile.TemporaryDirectory()
        self.addCleanup(room.cleanup)
        self.room = Path(room.name)
        (self.room / "built" / "examples").mkdir(parents=True)
        for name, text in [("whimbrel", "#!/bin/sh\n"), ("examples/manuals", MANUALS)]:
            (self.room / "built" / name).write_text(text)
            (self.room / "built" / name).chmod(0o755)

    def install(self, *arguments, script="install", **settings):
        command = [ROOT / "scripts" / script, *arguments]
        environment = {"PATH": "/usr/bin:/bin", **{name: str(value) for name, value in settings.items()}}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def files(self):
        there = self.room / "there"
        return {str(it.relative_to(there)) for it in there.rglob("*") if it.is_file()}

    def test_every_file_has_its_place(self):
        for prefix, units in [("/usr/local", "etc/systemd/system"), ("/usr", "usr/lib/systemd/system"), ("/opt/w", "etc/systemd/system")]:
            with self.subTest(prefix):
                there = self.room / "there"
                done = self.install("--built", self.room / "built", DESTDIR=there, PREFIX=prefix)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                wanted = {f"{prefix[1:]}/{file}" for file in FILES} | {f"{units}/whimbrel@.service"}
                self.assertLessEqual(wanted, self.files())
                self.assertEqual((there / prefix[1:] / "bin" / "whimbrel").stat().st_mode & 0o777, 0o755)
                unit = (there / units / "whimbrel@.service").read_text()
                self.assertIn(f"ExecStart={prefix}/bin/whimbrel run ", unit)
                self.assertNotIn("@BINDIR@", unit)

    def test_nothing_else_is_put_anywhere(self):
        self.install("--built", self.room / "built", DESTDIR=self.room / "there", PREFIX="/usr", UNITDIR="/units")
        self.assertEqual(self.files(), {f"usr/{file}" for file in FILES} | {"units/whimbrel@.service"})

    def test_what_is_wrong_is_said_in_one_sentence(self):
        for script in ("install", "package"):
            for arguments, settings, status, text in [
                (["--bult"], {}, 2, "unknown argument '--bult'"),
                (["--built"], {}, 2, "--built needs a directory"),
            ]:
                done = self.install(*arguments, script=script, **settings)
                self.assertEqual(done.returncode, status)
                self.assertIn(f"scripts/{script}: {text}", done.stderr)
        done = self.install("--built", self.room / "nowhere")
        self.assertEqual(done.returncode, 1)
        self.assertIn("cargo build --bin whimbrel --example manuals", done.stderr)
        done = self.install("--built", self.room / "built", PREFIX="usr")
        self.assertEqual(done.returncode, 2)
        self.assertIn("PREFIX=usr is not an absolute path", done.stderr)

    def test_the_unit_is_one_that_systemd_can_follow(self):
        unit = (ROOT / "scripts" / "lib" / "package" / "whimbrel@.service").read_text()
        for line in ("Type=notify", "Restart=no", "KillMode=mixed", "RuntimeDirectory=whimbrel/%i"):
            self.assertIn(f"\n{line}\n", unit)


if __name__ == "__main__":
    unittest.main()
