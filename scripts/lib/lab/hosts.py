"""The lab's hosts, all of them: two that guests move between, a third that is their storage, and the network that joins them."""

import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from . import images
from .agent import Switchboard
from .machine import Machine, version
from .network import Network
from .progress import LabFailed

SHARED = "/shared"
# With two, hosts vanished and guests died now and then; of one such end QEMU 7.2's emulation of SVM is known to be the cause (docs/lab.md).
# Guests have two vCPUs nevertheless.
HOST_CPUS = 1
STORE = "192.168.77.10"
# How often a host is asked for its time before its clock is set.
CLOCK_LOOKS = 8


class Host:
    """A place for guests: a hand in it, its address for migrations, and where its sockets may be."""

    def __init__(self, name, address, hand, folder):
        self.name = name
        self.address = address
        self.hand = hand
        self.folder = folder


class Emulated:
    """Hosts that are emulated machines. The shared storage is memory, or `store_disk`, an image with ext4 and what is to be shared."""

    # Where guests' kernel and initrd are, and what that kernel must be told: the emulated SVM does not show KVM the guest's XSETBV.
    boot = "/boot"
    words = ("noxsave",)

    def __init__(self, logs, memory_mib=1536, cpus=HOST_CPUS, store_disk=None):
        self.network = Network()
        self.switchboard = Switchboard()
        self.machines = {
            "store": Machine("store", STORE, self.switchboard, logs, 768, 1, disk=store_disk),
            "a": Machine("a", "192.168.77.11", self.switchboard, logs, memory_mib, cpus),
            "b": Machine("b", "192.168.77.12", self.switchboard, logs, memory_mib, cpus),
        }
        self.a, self.b = (Host(name, self.machines[name].address, self.machines[name].hand, "/run") for name in "ab")
        self.store = self.machines["store"].hand

    def start(self, kernel, busybox, programs, boot, tsc_khz):
        """Boots all hosts, with `programs` in their /bin and `boot` in their /boot."""
        agent = {"lab-agent": programs["lab-agent"]}
        extra = [(content, f"boot/{name}") for name, content in boot.items()]
        host = images.host(kernel, busybox, programs, extra=extra)
        store = images.host(kernel, busybox, agent, images.STORE_MODULES, [(images.INIT / "store", "etc/role")])
        ports = {name: self.network.socket_port(name) for name in self.machines}
        self.network.start()
        for name, machine in self.machines.items():
            machine.tsc_khz = tsc_khz
            machine.start(kernel.image, store if name == "store" else host, ports[name])
        for machine in self.machines.values():
            machine.ready()
        for host in (self.a, self.b):
            set_clock(host.hand)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._mount, (self.a, self.b)))
        prove_locks(self.a, self.b, SHARED)

    def _mount(self, host):
        options = f"vers=4.2,addr={STORE},clientaddr={host.address}"
        host.hand.check(f"mkdir -p {SHARED} && mount -t nfs4 -o {options} {STORE}:/ {SHARED}")

    def put_shared(self, content, name):
        """Writes a file to the shared storage, and returns its path on the hosts."""
        self.store.check(f"gunzip >/export/{name}", gzip.compress(content, 1), 120)
        return f"{SHARED}/{name}"

    def take_shared(self, name):
        """Reads a file of the shared storage."""
        pieces = bytearray()
        status = self.store.stream(f"gzip -1 -c /export/{name}", lambda kind, data: pieces.extend(data if kind == "o" else b""), seconds=120)
        if status:
            raise LabFailed(f"/export/{name} cannot be read: status {status}")
        return gzip.decompress(bytes(pieces))

    def remove_shared(self, name):
        """Removes a file of the shared storage."""
        self.store.check(f"rm -f /export/{name}")

    def description(self):
        """What they are, for whoever reads figures."""
        return f"hosts emulated by {version()}; Linux {self.a.hand.check('uname -r').strip()} in hosts and guests"

    def fault(self):
        """What is wrong with the hosts themselves, in a sentence; nothing if all of them live."""
        return next((f"host {name}: {fault}" for name, machine in self.machines.items() if (fault := machine.fault())), "")

    def end(self):
        """Leaves nothing running."""
        for machine in self.machines.values():
            machine.end()
        self.network.end()
        self.switchboard.close()


def set_clock(hand):
    """Sets a host's wall clock, which at boot was set to the second only, by this machine's. Guests take the hosts' word for how long a
    move took; hosts that run 1 s apart would put a guest's clock 1 s forward on each way there and back."""
    # The quickest answer is the one that says most precisely when the host looked.
    step = min(_ask_clock(hand) for _ in range(CLOCK_LOOKS))[1]
    hand.check(f"lab-clock {step}")


def _ask_clock(hand):
    """How long a host took to tell its time, and by how much that has to be put forward; nanoseconds."""
    asked = time.time_ns()
    told = int(hand.check("lab-clock"))
    answered = time.time_ns()
    return answered - asked, (asked + answered) // 2 - told


def prove_locks(one, other, folder):
    """A lock that one host holds must keep the other out. Storage that grants every lock would hide what the lab is there to find."""
    path = f"{folder}/.lock"
    said, told = bytearray(), threading.Event()

    def take(_, data):
        said.extend(data)
        told.set()

    # It holds the lock for as long as its input is open.
    holder = one.hand.begin(f"sleep 60 | lab-lock {path}", take)
    try:
        told.wait(20)
        answers = [said.decode().strip(), other.hand.check(f"lab-lock {path} </dev/null").strip()]
    finally:
        holder.end()
    if answers != ["held", "refused"]:
        raise LabFailed(f"the shared storage does not enforce locks: host {one.name} was told '{answers[0]}', and then host {other.name} '{answers[1]}'")
