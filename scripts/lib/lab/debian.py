"""Debian's packages: downloaded with apt-get and unpacked into the cache, never installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from .progress import LabFailed

KERNEL = "linux-image-cloud-amd64"
BUSYBOX = "busybox-static"
# A file beside the package's own: what was unpacked.
ORIGIN = ".package"


class Packages:
    """The packages of the lab below one folder. What is there already is not downloaded again."""

    def __init__(self, cache, progress):
        self.cache = Path(cache)
        self.progress = progress

    def kernel(self):
        """The folder of Debian's current cloud kernel: boot/ and lib/modules/ (or usr/lib/modules/)."""
        return self._unpacked("kernel", lambda: _dependency(KERNEL, r"linux-image-\d.*"))

    def busybox(self):
        """The static busybox."""
        folder = self._unpacked("busybox", lambda: BUSYBOX)
        for path in ("bin/busybox", "usr/bin/busybox"):
            if (folder / path).exists():
                return folder / path
        raise LabFailed(f"package {BUSYBOX} has no busybox in it")

    def folder(self, package):
        """The folder of any other package; of a meta package, that of the kernel that it stands for today."""
        if package == KERNEL:
            return self.kernel()
        if package.startswith("linux-image-"):
            return self._unpacked(package, lambda: _dependency(package, r"linux-image-\d.*"))
        return self._unpacked(package, lambda: package)

    def origin(self, package):
        """The package that was unpacked, with its version."""
        told = self.folder(package) / ORIGIN
        return told.read_text() if told.exists() else package

    def _unpacked(self, name, package):
        folder = self.cache / "debian" / name
        if folder.exists():
            return folder
        partial = Path(f"{folder}.{os.getpid()}")
        partial.mkdir(parents=True)
        try:
            _fetch(package(), partial, self.progress)
            # Another lab with the same cache may have been faster; its copy is as good.
            if not folder.exists():
                os.rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder


def _fetch(package, folder, progress):
    """Downloads a package and unpacks it."""
    progress.say(f"downloading {package}")
    downloads = folder / ".download"
    downloads.mkdir()
    # As root apt-get would want to hand the download to a user of its own, who may not write here.
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package]
    if subprocess.run(command, cwd=downloads, stderr=subprocess.DEVNULL).returncode and os.geteuid() == 0:
        # The lists of a fresh machine are empty or old.
        subprocess.run(["apt-get", "-qq", "update"], check=False)
    if not any(downloads.glob("*.deb")):
        done = subprocess.run(command, cwd=downloads, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise LabFailed(f"package {package} cannot be downloaded (try 'apt-get update'): {done.stderr.strip()}")
    for archive in downloads.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        told = subprocess.run(["dpkg-deb", "--show", "--showformat=${Package} ${Version}", archive], stdout=subprocess.PIPE, text=True, check=True)
        (folder / ORIGIN).write_text(told.stdout)
    shutil.rmtree(downloads)


def _dependency(package, pattern):
    """The package that a meta package stands for today."""
    for attempt in ("as it is", "after an update"):
        if attempt != "as it is" and os.geteuid() == 0:
            subprocess.run(["apt-get", "-qq", "update"], check=False)
        listed = subprocess.run(["apt-cache", "depends", package], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        found = re.search(rf"Depends: ({pattern})", listed)
        if found:
            return found[1]
    raise LabFailed(f"apt does not know package {package}; run 'apt-get update' and try again")
