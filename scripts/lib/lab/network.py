"""The lab's network: a process that is the switch and the station outside, and the lab's handle on it.

Each port is a file descriptor that reads and writes one frame at a time: a datagram socket to a QEMU, or a tap. The process
takes orders as lines of JSON on its standard input, answers each with one on its standard output, and ends with its input.
"""

import dataclasses
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

from .echo import Station
from .progress import LabFailed
from .switch import Announcement, Move, Switch

LONGEST_FRAME = 65600
# Frames that wait for a slow machine. More is dropped, as a switch does.
LONGEST_QUEUE = 2000
OUTSIDE = "outside"


class Network:
    """The network, started; hosts are plugged in before that."""

    def __init__(self):
        self._ports = {}
        self._process = None
        self._turn = threading.Lock()

    def socket_port(self, name):
        """A new port; returns the socket that the machine's end is."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (ours, theirs):
            # Several full frames fit on the way.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._ports[name] = ours.detach()
        return theirs

    def tap_port(self, name, descriptor):
        """A new port that is a tap's descriptor."""
        self._ports[name] = descriptor

    def start(self):
        """Starts the process."""
        ports = [f"{name}={descriptor}" for name, descriptor in self._ports.items()]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lab.network", *ports], env=environment, pass_fds=self._ports.values(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        for descriptor in self._ports.values():
            os.close(descriptor)

    def ping(self, mac, address):
        """Starts to ping a guest."""
        self._ask(order="ping", mac=mac, address=address)

    def pinged(self, mac):
        """Stops to ping it, and gives the figures (`Echoes.figures`)."""
        return self._ask(order="pinged", mac=mac)

    def moves(self, mac=None):
        """The moves of a MAC address so far, or of all."""
        return [Move(**it) for it in self._ask(order="moves") if mac in (None, it["mac"])]

    def announcements(self, mac):
        """The announcements of a MAC address so far."""
        return [it for it in (Announcement(**it) for it in self._ask(order="announcements")) if it.mac == mac]

    def traffic(self):
        """Frames forwarded, flooded and dropped."""
        return self._ask(order="traffic")

    def end(self):
        """Ends the process."""
        if self._process:
            self._process.stdin.close()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._process = None

    def _ask(self, **order):
        with self._turn:
            try:
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()
                answer = self._process.stdout.readline()
            except OSError as error:
                raise LabFailed(f"the lab's network process is gone: {error}") from error
        if not answer:
            raise LabFailed("the lab's network process is gone; its words stand above")
        return json.loads(answer)


class Exchange:
    """What runs in the process: descriptors, one thread, one loop."""

    def __init__(self, ports):
        self.ports = ports
        self.names = {descriptor: name for name, descriptor in ports.items()}
        self.queues = {name: deque() for name in ports}
        self.switch = Switch([*ports, OUTSIDE])
        self.station = Station()
        self.frames = self.dropped = 0
        self.selector = selectors.DefaultSelector()
        for descriptor in self.names:
            os.set_blocking(descriptor, False)
            self.selector.register(descriptor, selectors.EVENT_READ)

    def run(self, orders, answers):
        """Switches until there are no more orders."""
        self.selector.register(orders, selectors.EVENT_READ)
        while True:
            due = self.station.next_at()
            for key, events in self.selector.select(None if due is None else max(due - time.monotonic(), 0)):
                if key.fileobj is orders:
                    line = orders.readline()
                    if not line:
                        return
                    print(json.dumps(self.obey(json.loads(line))), file=answers, flush=True)
                    continue
                if events & selectors.EVENT_WRITE:
                    self.drain(self.names[key.fd])
                if events & selectors.EVENT_READ:
                    self.take(key.fd)
            for frame in self.station.due(time.monotonic()):
                self.forward(frame, OUTSIDE)

    def obey(self, order):
        """Carries out an order of the lab."""
        match order["order"]:
            case "ping":
                self.station.begin(order["mac"], order["mac"], order["address"], time.monotonic())
                return True
            case "pinged":
                return self.station.end(order["mac"])
            case "moves":
                return [dataclasses.asdict(it) for it in self.switch.moves]
            case "announcements":
                return [dataclasses.asdict(it) for it in self.switch.announcements]
            case "traffic":
                return {"frames": self.frames, "floods": self.switch.floods, "dropped": self.dropped}

    def take(self, descriptor):
        """Forwards what a port has, a bounded number of frames, so that no port starves the others and the pings."""
        for _ in range(64):
            try:
                frame = os.read(descriptor, LONGEST_FRAME)
            except BlockingIOError:
                return
            except OSError:
                frame = b""
            if not frame:
                # The machine is switched off.
                self.selector.unregister(descriptor)
                return
            self.forward(frame, self.names[descriptor])

    def forward(self, frame, came_from):
        """Sends a frame on its way."""
        now = time.monotonic()
        self.frames += 1
        for port in self.switch.forward(frame, came_from, now):
            if port == OUTSIDE:
                for answer in self.station.receive(frame, now):
                    self.forward(answer, OUTSIDE)
            else:
                self.send(port, frame)

    def send(self, port, frame):
        """Gives a frame to a port, or to its queue if the machine is not quick enough."""
        queue = self.queues[port]
        if queue:
            if len(queue) < LONGEST_QUEUE:
                queue.append(frame)
            else:
                self.dropped += 1
        elif not self.write(port, frame):
            queue.append(frame)
            self.listen(port, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def drain(self, port):
        """Gives a port what waits for it, as far as it takes it."""
        queue = self.queues[port]
        while queue and self.write(port, queue[0]):
            queue.popleft()
        if not queue:
            self.listen(port, selectors.EVENT_READ)

    def write(self, port, frame):
        """Whether the port took the frame. A port without a machine swallows all."""
        try:
            os.write(self.ports[port], frame)
        except BlockingIOError:
            return False
        except OSError:
            self.dropped += 1
        return True

    def listen(self, port, events):
        """Changes what is awaited at a port that still has a machine."""
        try:
            self.selector.modify(self.ports[port], events)
        except KeyError:
            self.queues[port].clear()


def main():
    try:
        # It mostly sleeps, and an echo that it reads late falsifies a gap.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        pass
    ports = {name: int(descriptor) for name, descriptor in (word.split("=") for word in sys.argv[1:])}
    Exchange(ports).run(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
