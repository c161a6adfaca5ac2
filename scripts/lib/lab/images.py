"""The initramfs of an emulated host, and of the guest that migrates."""

import shutil
from pathlib import Path

from . import build
from .cpio import Archive

INIT = build.ROOT / "tests" / "lab" / "init"

# Debian's cloud kernel has all of this as modules.
HOST_MODULES = ["virtio_pci", "virtio_net", "virtio_rng", "kvm_amd", "tun", "bridge", "nfsv4"]
STORE_MODULES = ["virtio_pci", "virtio_net", "virtio_rng", "bridge", "nfsd", "nfsv4", "virtio_blk", "ext4"]
GUEST_MODULES = [
    "virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon", "rtc_cmos", "ext4",
    "button", "evdev",
]  # fmt: skip

# Programs of this machine that are handy in a host, if they are installed. (Of two with one name, the shell takes busybox's own.)
TOOLS = ["mkfs.ext4", "e2fsck", "debugfs", "strace"]


def host(kernel, busybox, programs, modules=HOST_MODULES, extra=()):
    """The initramfs of a host: `programs` go to /bin, `extra` is pairs of a file here and its path there."""
    archive = _basic(kernel, busybox, modules, INIT / "host")
    for name, path in programs.items():
        _program(archive, path, f"bin/{name}")
    for tool in TOOLS:
        path = shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")
        if path and tool not in programs:
            _program(archive, Path(path), f"bin/{tool}")
    for path, place in extra:
        if isinstance(path, bytes):
            archive.file(place, path)
        else:
            archive.copy(path, place)
    return archive.bytes()


def guest(kernel, busybox, programs):
    """The initramfs of the guest."""
    archive = _basic(kernel, busybox, GUEST_MODULES, INIT / "guest")
    for name in ("ending", "autopsy"):
        archive.copy(INIT / name, f"bin/{name}")
    for name, path in programs.items():
        archive.copy(path, f"bin/{name}")
    return archive.bytes()


def _basic(kernel, busybox, modules, init):
    archive = Archive()
    for folder in ("proc", "sys", "dev", "tmp", "run", "etc", "mnt"):
        archive.folder(folder)
    # Before devtmpfs is mounted, init has this only.
    archive.device("dev/console", 5, 1)
    archive.copy(busybox, "bin/busybox")
    archive.link("bin/sh", "busybox")
    archive.copy(init, "init")
    files = kernel.modules(modules)
    for path in files:
        archive.copy(path, f"lib/modules/{path.name}")
    archive.file("lib/modules/order", "".join(f"{path.name}\n" for path in files).encode())
    return archive


def _program(archive, path, place):
    archive.copy(path, place)
    for library in build.libraries(path):
        archive.copy(library, str(library))
