"""The programs of this machine that the lab runs, and the Debian packages that have them."""

import os
import shutil

from .progress import LabFailed

# What only root needs is not in everybody's path.
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

BUILD = {"cargo": "Rust (https://rustup.rs)", "cc": "gcc", "ldd": "libc-bin"}
ARCHIVE = {"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg"}
EMULATION = {"qemu-system-x86_64": "qemu-system-x86"}
NATIVE = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
DISKS = {"mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "dumpe2fs": "e2fsprogs", "debugfs": "e2fsprogs", "qemu-img": "qemu-utils"}


def path(program):
    """Where a program is; None if it is not installed."""
    return shutil.which(program, path=SEARCHED)


def needed(options):
    """What the chosen action runs: program -> package."""
    programs = {**BUILD, **(NATIVE if options.native else EMULATION)}
    # What was downloaded before is not downloaded again.
    if options.action == "boots" or not all((options.cache / "debian" / name).exists() for name in ("kernel", "busybox")):
        programs |= ARCHIVE
    if options.action == "test":
        programs |= DISKS
    return programs


def check(options):
    """Raises `LabFailed` with everything that is missing, before anything is downloaded, built or booted."""
    missing = {program: package for program, package in needed(options).items() if not path(program)}
    if not missing:
        return
    rust = BUILD["cargo"]
    packages = sorted(set(missing.values()) - {rust})
    advice = [f"Debian: apt-get install {' '.join(packages)}"] if packages else []
    advice += [rust] if rust in missing.values() else []
    verb = "is" if len(missing) == 1 else "are"
    raise LabFailed(f"{', '.join(missing)} {verb} missing: install {'it' if verb == 'is' else 'them'} ({'; '.join(advice)}) and try again")
