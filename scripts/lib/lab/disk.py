"""Disk images for guests: made before, and looked into afterwards, by tools that have nothing to do with Whimbrel."""

import re
import shutil
import subprocess

from .progress import LabFailed

SIZE = 32 << 20


def make(image_format, name, folder):
    """Makes an image with an empty ext4 on it, and returns what is in its file."""
    _need("mkfs.ext4", "qemu-img")
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


def check(image_format, name, content, folder):
    """How many records the image holds. Whatever is wrong with it raises `LabFailed`, and leaves the image in the folder."""
    _need("e2fsck", "dumpe2fs", "debugfs", "qemu-img")
    raw, image = folder / f"{name}.plain", folder / name
    image.write_bytes(content)
    if image_format != "raw":
        _run("qemu-img", "check", "-q", "-f", image_format, image)
    _run("qemu-img", "convert", "-f", image_format, "-O", "raw", image, raw)
    _run("e2fsck", "-f", "-n", raw)
    if "needs_recovery" in _run("dumpe2fs", "-h", raw):
        raise LabFailed("the file system was not unmounted: its journal waits to be replayed")
    kept = count(_run("debugfs", "-R", "cat /records", raw))
    raw.unlink()
    image.unlink()
    return kept


def count(text):
    """How many records a file holds, which must be whole and without a gap."""
    for number, line in enumerate(text.splitlines()):
        if not re.fullmatch(rf"record {number:023} ", line):
            raise LabFailed(f"record {number} on the disk reads '{line[:40]}'")
    return len(text.splitlines())


def _need(*programs):
    for program in programs:
        if not _path(program):
            raise LabFailed(f"'{program}' is missing (Debian: apt-get install e2fsprogs qemu-utils)")


def _path(program):
    # What only root needs is not in everybody's path.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def _run(program, *arguments):
    done = subprocess.run([_path(program), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise LabFailed(f"{program} ended with status {done.returncode}: {(done.stdout + done.stderr).strip()}")
    return done.stdout
