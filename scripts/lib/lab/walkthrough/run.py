"""The walk-through from the README to the verdict."""

import os
import time

from .. import build, course, tools
from ..hosts import Emulated
from ..progress import LabFailed
from . import blocks, once
from .steps import Walk

# The guest has 1 GiB.
HOST_MIB = 2048


class HostGone(LabFailed):
    """A host is gone. That says nothing about the README: the lab itself could not work."""


def run(options, progress):
    """Does it; the exit status, which is 0, too, where it had to be skipped."""
    if why := once.obstacle():
        return _skip(why)
    began = time.monotonic()
    folder = options.cache / "logs" / time.strftime(f"%Y%m%d-%H%M%S-{os.getpid()}-readme")
    folder.mkdir(parents=True)
    failure = None
    try:
        move = _walk(options, folder, progress)
        progress.say(f"total {move.total:.1f} s, downtime {move.downtime * 1000:.0f} ms, longest time without an answer {move.ping_gap * 1000:.0f} ms")
    except HostGone:
        raise
    except LabFailed as why:
        failure = str(why)
        print(f"FAILED: the README's walk-through: {failure}")
    print(f"the README's walk-through took {time.monotonic() - began:.0f} s; what was on the screens is in {folder}")
    print(f"test result: {'FAILED. 0 passed; 1 failed' if failure else 'ok. 1 passed; 0 failed'}; 0 ignored", flush=True)
    return 1 if failure else 0


def _walk(options, folder, progress):
    commands = blocks.read(blocks.README.read_text())
    files = once.files(commands[blocks.ONCE], options.cache, folder, progress)
    disk = once.store_disk(files, folder / "store.raw")
    hosts = Emulated(folder, HOST_MIB, store_disk=disk)
    walk = Walk(hosts, commands, folder, progress.say)
    try:
        # A shell, terminals, and an 'ip' that knows taps: busybox has none of these.
        more = {name: tools.path(name) for name in ("dash", "script", "ip")}
        course.boot(hosts, options, progress, more)
        return walk.go()
    except LabFailed as why:
        if gone := [name for name, machine in hosts.machines.items() if machine.process and machine.process.poll() is not None]:
            raise HostGone(f"the emulated host {' and '.join(gone)} switched itself off: {why}") from why
        raise
    finally:
        walk.end()
        hosts.end()
        disk.unlink()


def _skip(why):
    """Says loudly that nothing was proved."""
    print(f"SKIPPED: the README's walk-through: {why}\ntest result: ok. 0 passed; 0 failed; 1 ignored", flush=True)
    return 0
