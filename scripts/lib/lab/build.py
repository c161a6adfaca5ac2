"""The programs that run in the lab: built by cargo, or given, with the shared libraries that they need."""

import json
import re
import subprocess
from pathlib import Path

from .progress import LabFailed

ROOT = Path(__file__).resolve().parents[3]


def whimbrel(dev=False):
    """The ordinary release build, or the program that the end-to-end tests run. Hosts get its libraries along, so that the lab needs no
    second build of everything."""
    if dev:
        return _cargo(ROOT, ["test", "--no-run", "--workspace", "--test", "e2e"])["whimbrel"]
    return _cargo(ROOT, ["build", "--release", "--bin", "whimbrel"])["whimbrel"]


def lab_programs():
    """The lab's own programs by name, static: the guest's initramfs should be small. Never in a cache that clones share: cargo would
    take what another clone built later for its own."""
    target = ["--target", "x86_64-unknown-linux-gnu", "--target-dir", str(ROOT / "target" / "lab" / "programs")]
    static = ["--config", "target.x86_64-unknown-linux-gnu.rustflags=['-C','target-feature=+crt-static']"]
    return _cargo(ROOT / "tests" / "lab", ["build", "--release", *target, *static])


def tsc_khz(programs):
    """The frequency of this machine's time stamp counter."""
    return int(subprocess.run([programs["lab-tsc"]], stdout=subprocess.PIPE, text=True, check=True).stdout)


def _cargo(folder, arguments):
    command = ["cargo", *arguments, "--quiet", "--message-format=json-render-diagnostics"]
    try:
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    except FileNotFoundError as error:
        raise LabFailed("there is no cargo here; install Rust from https://rustup.rs") from error
    except subprocess.CalledProcessError as error:
        raise LabFailed(f"{folder} does not build; the compiler's words stand above") from error
    built = (json.loads(line) for line in done.stdout.splitlines())
    return {it["target"]["name"]: Path(it["executable"]) for it in built if it.get("executable")}


def libraries(program):
    """The shared libraries of a program, its loader included; none for a static one."""
    listed = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if "not found" in listed.stdout:
        raise LabFailed(f"{program} needs libraries that are missing here: {listed.stdout.strip()}")
    if listed.returncode:
        return []
    return [Path(path) for path in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", listed.stdout, re.MULTILINE)]
