"""What the walk-through makes once: the disk with Debian on it, and its kernel. A minute or two; then they are in the cache."""

import hashlib
import os
import shutil
import subprocess

from .. import tools
from ..progress import LabFailed

# Where the README's commands put things, and what it takes to run them and those for the hosts.
SHARED = "/srv/vm"
PROGRAMS = ["mmdebstrap", "mke2fs", "unshare", "ip", "dash", "script"]
# On the store's disk: the guest's disk, and as much again.
STORE_SIZE = "4G"


def obstacle():
    """Why the walk cannot be done on this machine; None if it can."""
    if missing := [name for name in PROGRAMS if not tools.path(name)]:
        return f"{', '.join(missing)} not installed (Debian: apt-get install mmdebstrap e2fsprogs iproute2)"
    return "the README's commands for the disk need root" if os.geteuid() else None


def files(block, cache, folder, progress):
    """The folder that is to be `/srv/vm`, made by the README's block. Other commands there make other files."""
    kept = cache / "readme" / hashlib.sha256(block.encode()).hexdigest()[:16]
    if kept.exists():
        return kept
    progress.say("the README's commands make a disk with Debian on it")
    partial = kept.with_name(f"{kept.name}.{os.getpid()}")
    try:
        _make(block, partial, folder / "once.log")
        if not kept.exists():
            os.rename(partial / "srv" / "vm", kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return kept


def _make(block, partial, log):
    """Runs the block where /srv and /tmp are folders of the cache: this machine's own stay as they are."""
    for name in ("srv/vm", "tmp"):
        (partial / name).mkdir(parents=True)
    (partial / "block").write_text(block)
    prelude = 'mount --make-rprivate / && cd "$1" && mount --bind srv /srv && mount --bind tmp /tmp && exec sh -e block'
    with open(log, "wb") as out:
        environment = {**os.environ, "PATH": tools.SEARCHED}
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", prelude, "once", partial.resolve()], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
        )
    if done.returncode:
        words = log.read_text(errors="replace").strip().split("\n")[-1]
        raise LabFailed(f"the README's commands for the disk ended with status {done.returncode}: {words}; the rest is in {log}")


def store_disk(kept, path):
    """Makes the disk of the storage host, with a copy of these files on it. Holes stay holes."""
    made = subprocess.run([tools.path("mke2fs"), "-q", "-t", "ext4", "-d", kept, path, STORE_SIZE], capture_output=True, text=True)
    if made.returncode:
        raise LabFailed(f"the storage host's disk cannot be made: {made.stderr.strip()}")
    return path
