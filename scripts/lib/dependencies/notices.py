"""THIRD-PARTY: what the program is built from, under which licences, and the texts that these ask for."""

import json
import re
import subprocess
from pathlib import Path

from .licences import chosen

TARGET = "x86_64-unknown-linux-gnu"
HEADING = """Whimbrel is built from the libraries below, each under the licence that is named beside it. Written by
'scripts/dependencies --write'. Of several licences to choose from, Apache-2.0 is chosen first; its text is the file LICENSE.
"""
LICENCE_FILE = re.compile(r"(?i)^(licen[cs]e|copying|copyright|notice|unlicense)")


class NoText(Exception):
    """A licence asks for its text, and the crate has none."""


def metadata(root):
    """What cargo says about the program and all that it is built from."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]
    return json.loads(subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True).stdout)


def built_in(data, program="whimbrel"):
    """The packages that are part of the program: neither tests' nor those that run while it is built."""
    packages = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    own = set(data["workspace_members"])
    waiting = [it for it in own if packages[it]["name"] == program]
    seen = set()
    while waiting:
        package = waiting.pop()
        if package in seen or _is_macro(packages[package]):
            continue
        seen.add(package)
        normal = lambda it: any(kind["kind"] is None for kind in it["dep_kinds"])
        waiting += [it["pkg"] for it in nodes[package]["deps"] if normal(it)]
    return sorted((packages[it] for it in seen - own), key=lambda it: (it["name"], it["version"]))


def _is_macro(package):
    return any("proc-macro" in target["kind"] for target in package["targets"])


def texts(package, licences):
    """The texts that have to stand beside the program: of all licences but Apache-2.0, and every NOTICE."""
    folder = Path(package["manifest_path"]).parent
    # The C library that a crate brings along has a licence of its own.
    files = [it for it in sorted(folder.glob("*")) + sorted(folder.glob("*/LICENSE*")) if it.is_file()]
    files = [it for it in files if LICENCE_FILE.match(it.name)]
    wanted = [it for it in files if it.name.upper().startswith("NOTICE") or it.parent != folder]
    if others := [it for it in licences if not it.startswith("Apache-2.0")]:
        plain = [it for it in files if "APACHE" not in it.name.upper() and "UNLICENSE" not in it.name.upper()]
        named = [it for it in plain if any(licence.split("-")[0].upper() in it.name.upper() for licence in others)]
        if not plain:
            raise NoText(f"{package['name']} {package['version']} is under {' and '.join(others)} and has no file with its text")
        wanted += [it for it in named or plain if it not in wanted]
    return [_tidy(it.read_text(errors="replace")) for it in wanted]


def _tidy(text):
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def notices(packages):
    """The whole file."""
    lines, by_text = [HEADING], {}
    for package in packages:
        licences = chosen(package["license"] or "")
        label = f"{package['name']} {package['version']}"
        lines.append(f"{label}: {' AND '.join(licences)}")
        for text in texts(package, licences):
            by_text.setdefault(text, []).append(label)
    for text, labels in by_text.items():
        lines += ["", "-" * 100, ", ".join(labels), "", text]
    return "\n".join(lines) + "\n"
