"""A network link of a known rate: two network namespaces, one for the source and one for the destination.

A veth pair joins them. `tbf` holds each direction to the rate, behind a queue as short as a switch's.
"""

import os
import shutil
import subprocess

# 10 ms of a switch's buffer, and as much at once as the largest packet that the kernel hands on unsplit, twice.
QUEUE = ("burst", "128kb", "latency", "10ms")
# Of the range that is for documentation: it is used nowhere, and the namespaces know no other network.
ADDRESSES = {"source": "192.0.2.1", "destination": "192.0.2.2"}


class Link:
    """The link, from `make` until `end`, which also removes one that is half made."""

    def __init__(self, rate):
        self.rate = rate
        self.device = f"link{os.getpid()}"
        self.names = {role: f"compare_modes.{os.getpid()}.{role}" for role in ADDRESSES}

    @staticmethod
    def missing():
        """What this host lacks for a link, in one sentence, or None."""
        if os.geteuid() != 0:
            return "a link is made of network namespaces, and only root can make these"
        lacking = [tool for tool in ("ip", "tc", "nsenter") if not shutil.which(tool)]
        if lacking:
            return f"a link is made with {' and '.join(lacking)}, not installed here (Debian: apt-get install iproute2 util-linux)"
        return None

    def make(self):
        """Makes the namespaces and joins them."""
        source, destination = self.names.values()
        for name in self.names.values():
            run("ip", "netns", "add", name)
        run("ip", "link", "add", self.device, "netns", source, "type", "veth", "peer", "name", self.device, "netns", destination)
        for role, name in self.names.items():
            run("ip", "-n", name, "address", "add", f"{ADDRESSES[role]}/30", "dev", self.device)
            run("ip", "-n", name, "link", "set", self.device, "up")
            run("tc", "-n", name, "qdisc", "add", "dev", self.device, "root", "tbf", "rate", f"{self.rate}bit", *QUEUE)

    @property
    def address(self):
        """Where the destination listens."""
        return ADDRESSES["destination"]

    def within(self, role):
        """What a command begins with to run on a side of the link; it keeps the process, and so its number."""
        return ["nsenter", f"--net={self._path(role)}"]

    def received(self, pid):
        """Bytes that have come to the side on which a process runs."""
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as text:
            return received(text.read(), self.device)

    def end(self):
        """Removes the namespaces, and with them all that is inside."""
        for role, name in self.names.items():
            if os.path.exists(self._path(role)):
                subprocess.run(["ip", "netns", "delete", name], check=False)

    def _path(self, role):
        return f"/run/netns/{self.names[role]}"


class NoLink(Exception):
    """Why no link can be made, in one sentence."""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().split("\n")[0] or f"status {done.returncode}"
        raise NoLink(f"no link can be made: '{' '.join(command)}' says: {why}")


def received(text, device):
    """The bytes that a device received, from the text of /proc/PID/net/dev."""
    for line in text.splitlines():
        name, colon, counters = line.partition(":")
        if colon and name.strip() == device:
            return int(counters.split()[0])
    raise ValueError(f"there is no device {device}")


def used(before, after, rate):
    """How many percent of a link's rate were used between two readings (seconds, bytes)."""
    (t0, bytes0), (t1, bytes1) = before, after
    return 100 * (bytes1 - bytes0) * 8 / (rate * (t1 - t0)) if t1 > t0 else None
