"""The lab on this machine's own KVM: hosts are network namespaces, their storage is a folder that both see."""

import fcntl
import os
import platform
import shlex
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from .agent import Hand, Switchboard
from .hosts import Host, prove_locks
from .machine import dies_with_the_lab
from .network import Network
from .progress import LabFailed

# From include/uapi/linux/if_tun.h.
TUNSETIFF, TUNSETPERSIST = 0x400454CA, 0x400454CB
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
# Guests that run at a time, and one to spare: as many as an emulated host has.
TAPS = 4
TOOLS = ("ip", "nsenter", "unshare")


class Native:
    """Hosts that are network namespaces of this machine."""

    def __init__(self, logs):
        if fault := unusable(Path("/proc/cpuinfo").read_text(), os.access("/dev/kvm", os.R_OK | os.W_OK), os.geteuid() == 0):
            raise LabFailed(fault)
        self.network = Network()
        self.switchboard = Switchboard()
        # Not among the logs: the names of unix sockets must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="whimbrel-lab-"))
        self.shared, self.boot = self.folder / "shared", str(self.folder / "boot")
        self.words = ("noxsave",) if "QEMU TCG" in Path("/proc/cpuinfo").read_text() else ()
        self.namespaces = {name: Namespace(name, self.folder / name) for name in "ab"}
        self.agents = []
        self.logs = logs

    def start(self, _kernel, _busybox, programs, boot, _tsc_khz):
        """Makes the namespaces, with `programs` in their path and `boot` in the folder `self.boot`."""
        for folder in ("shared", "boot", "bin", *self.namespaces):
            (self.folder / folder).mkdir()
        for name, path in programs.items():
            (self.folder / "bin" / name).symlink_to(path.resolve())
        for name, content in boot.items():
            (self.folder / "boot" / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        for number, (name, namespace) in enumerate(self.namespaces.items()):
            address = f"192.168.77.{11 + number}"
            self.network.tap_port(name, namespace.start(address))
            self.agents.append(self._agent(name, programs["lab-agent"]))
            hand = InNamespace(self.switchboard, name, namespace)
            setattr(self, name, Host(name, address, hand, str(self.folder / name)))
        self.network.start()
        prove_locks(self.a, self.b, str(self.shared))

    def _agent(self, name, program):
        """An agent as in an emulated host, except that it runs outside the namespace, from where it reaches the lab."""
        self.switchboard.expect(name)
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        command = [*dies_with_the_lab(), str(program), f"127.0.0.1:{self.switchboard.port}", self.switchboard.token, name]
        with open(self.logs / f"{name}.agent", "wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)

    def put_shared(self, content, name):
        """Writes a file to the shared storage, and returns its path on the hosts."""
        (self.shared / name).write_bytes(content)
        return str(self.shared / name)

    def take_shared(self, name):
        """Reads a file of the shared storage."""
        return (self.shared / name).read_bytes()

    def remove_shared(self, name):
        """Removes a file of the shared storage."""
        (self.shared / name).unlink(missing_ok=True)

    def description(self):
        """What they are, for whoever reads figures."""
        return f"hosts are network namespaces on this machine's own KVM, Linux {platform.release()}"

    def fault(self):
        """What is wrong with the hosts themselves: nothing that would not show elsewhere."""
        return ""

    def end(self):
        """Leaves nothing running."""
        self.switchboard.close()
        for agent in self.agents:
            agent.kill()
            agent.wait()
        self.network.end()
        for namespace in self.namespaces.values():
            namespace.end()
        shutil.rmtree(self.folder, ignore_errors=True)


class InNamespace(Hand):
    """Commands run in a namespace."""

    def __init__(self, switchboard, name, namespace):
        super().__init__(switchboard, name)
        self.namespace = namespace

    def order(self, command):
        """The command as the agent is told it."""
        return f"exec {shlex.join(self.namespace.enter('sh', '-c', command))}"


class Namespace:
    """A network namespace with a bridge in it, for as long as a process of its own holds it."""

    def __init__(self, name, folder):
        self.name = name
        self.folder = folder
        self.holder = None

    def start(self, address):
        """Makes it; returns a descriptor of the tap that is the bridge's way out."""
        hold = [*dies_with_the_lab(), "unshare", "-n", "sh", "-c", "echo && exec sleep 2147483647"]
        self.holder = subprocess.Popen(hold, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        # It says so when the namespace is there.
        if not self.holder.stdout.readline():
            raise LabFailed("no network namespace can be made here: 'unshare -n' failed")
        self._run("ip", "link", "set", "lo", "up")
        self._run("ip", "link", "add", "br0", "type", "bridge")
        way_out = self._tap("out")
        for number in range(TAPS):
            os.close(self._tap(f"tap{number}", persistent=True))
        self._run("ip", "addr", "add", f"{address}/24", "dev", "br0")
        self._run("ip", "link", "set", "br0", "up")
        # Hosts exchange large frames, as emulated ones do.
        self._run("ip", "link", "set", "out", "mtu", "60000")
        self._run("ip", "link", "set", "br0", "mtu", "60000")
        return way_out

    def enter(self, *command):
        """A command line that runs a command in it."""
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *command]

    def end(self):
        """Ends the process that holds it, and with it goes all that is in it."""
        if self.holder:
            self.holder.kill()
            self.holder.wait()
            self.holder.stdout.close()

    def _tap(self, name, persistent=False):
        """A tap at the bridge. It is made outside, where its descriptor works on after it has moved in."""
        outside = f"lab{os.getpid()}{self.name}"
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", outside.encode(), IFF_TAP | IFF_NO_PI))
        if persistent:
            fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
        _run("ip", "link", "set", outside, "netns", str(self.holder.pid))
        self._run("ip", "link", "set", outside, "name", name)
        self._run("ip", "link", "set", name, "master", "br0")
        self._run("ip", "link", "set", name, "up")
        return descriptor

    def _run(self, *command):
        _run(*self.enter(*command))


def unusable(cpuinfo, kvm, root):
    """Why a machine with this /proc/cpuinfo, with KVM in reach or not, as root or not, cannot be the hosts; None if it can."""
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    if not {"svm", "vmx"} & set(flags):
        return "--native needs hardware virtualisation, and /proc/cpuinfo has neither svm nor vmx; without --native the lab emulates hosts that have it"
    if not kvm:
        return "--native needs KVM, and /dev/kvm cannot be opened for reading and writing"
    if not root:
        return "--native makes network namespaces, bridges and taps: run it as root"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"--native needs {', '.join(missing)} (Debian: apt-get install iproute2 util-linux)" if missing else None


def _run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise LabFailed(f"'{shlex.join(command)}' failed with status {done.returncode}: {done.stdout.strip()}")
