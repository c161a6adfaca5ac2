"""Disk images for guests: made before, and looked into afterwards, by tools that have nothing to do with Whimbrel."""

import re
import subprocess

from . import tools
from .progress import LabFailed

SIZE = 32 << 20


def make(image_format, name, folder):
    """Makes an image with an empty ext4 on it, and returns what is in its file."""
    raw, image = folder / f"{name}.plain", folder / name
    with open(raw, "wb") as file:
        file.truncate(SIZE)
    # Everything is initialised now: a kernel thread that does so later would only cost the guest time.
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4", raw)
    _run("qemu-img", "convert", "-f", "raw", "-O", image_format, raw, image)
    content = image.read_bytes()
    raw.unlink()
    image.unlink()
    return content


def make_overlay(name, base, folder):
    """Makes a qcow2 image that holds nothing yet but a raw backing file's name, and returns what is in its file."""
    image = folder / name
    # The size is given and the backing file not opened: it lies beside the image where that will be used.
    _run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", base, "-F", "raw", image, str(SIZE))
    content = image.read_bytes()
    image.unlink()
    return content


def check(image_format, name, content, folder, base=None):
    """How many records the image holds; `base` is its backing files by name. Whatever is wrong with it raises `LabFailed`, and leaves
    the image in the folder."""
    raw, image = folder / f"{name}.plain", folder / name
    for path, there in {name: content, **(base or {})}.items():
        (folder / path).write_bytes(there)
    if image_format != "raw":
        _run("qemu-img", "check", "-q", "-f", image_format, image)
    _run("qemu-img", "convert", "-f", image_format, "-O", "raw", image, raw)
    _run("e2fsck", "-f", "-n", raw)
    if "needs_recovery" in _run("dumpe2fs", "-h", raw):
        raise LabFailed("the file system was not unmounted: its journal waits to be replayed")
    kept = count(_run("debugfs", "-R", "cat /records", raw))
    for path in (raw, image, *(folder / it for it in base or {})):
        path.unlink()
    return kept


def count(text):
    """How many records a file holds, which must be whole and without a gap."""
    for number, line in enumerate(text.splitlines()):
        if not re.fullmatch(rf"record {number:023} ", line):
            raise LabFailed(f"record {number} on the disk reads '{line[:40]}'")
    return len(text.splitlines())


def _run(program, *arguments):
    done = subprocess.run([tools.path(program) or program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise LabFailed(f"{program} ended with status {done.returncode}: {(done.stdout + done.stderr).strip()}")
    return done.stdout
