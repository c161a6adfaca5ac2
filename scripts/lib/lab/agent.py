"""The lab's end of the control channel: commands in a host, relayed sockets. The frames are described in tests/lab/agent/main.rs."""

import queue
import secrets
import socket
import struct
import threading
import time
from dataclasses import dataclass

from .progress import LabFailed

LONGEST_INPUT = 1 << 16


@dataclass
class Result:
    """How a command ended."""

    status: int
    output: str
    errors: str


class Switchboard:
    """Listens on loopback for the agents of all hosts. Only who knows the token is listened to: behind an agent is a root shell."""

    def __init__(self):
        self.token = secrets.token_hex(16)
        self._lines = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def expect(self, name):
        """Makes the agent of that name welcome, and forgets connections of one that had it before."""
        self._lines[name] = queue.Queue()

    def line(self, name, seconds):
        """An idle connection of that agent; None if there is none in time."""
        try:
            return self._lines[name].get(timeout=max(seconds, 0))
        except queue.Empty:
            return None

    def close(self):
        """Listens no more."""
        self._listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection):
        line = Line(connection)
        try:
            kind, content = line.receive()
            token, _, name = content.decode(errors="replace").partition(" ")
        except OSError:
            kind, token, name = "", "", ""
        if kind == "H" and secrets.compare_digest(token.encode(), self.token.encode()) and name in self._lines:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._lines[name].put(line)
        else:
            connection.close()


class Line:
    """A connection to an agent, in frames."""

    def __init__(self, connection):
        self.connection = connection

    def send(self, kind, content=b""):
        """Sends a frame."""
        self.connection.sendall(kind.encode() + struct.pack(">I", len(content)) + content)

    def receive(self):
        """Receives a frame: its kind and content. ConnectionError at the end of the connection."""
        kind, length = struct.unpack(">cI", self._exactly(5))
        return kind.decode(errors="replace"), self._exactly(length)

    def give(self, data):
        """Sends input."""
        for start in range(0, len(data), LONGEST_INPUT):
            self.send("i", data[start : start + LONGEST_INPUT])

    def end_input(self):
        """Says that no more input follows."""
        self.send("i")

    def close(self):
        """Closes the connection, which ends the command at its other side."""
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.connection.close()

    def _exactly(self, length):
        data = bytearray()
        while len(data) < length:
            piece = self.connection.recv(length - len(data))
            if not piece:
                raise ConnectionError("the agent is gone")
            data += piece
        return bytes(data)


class Relay:
    """A connection to a unix socket in a host, as if it were a socket here."""

    def __init__(self, line):
        self._line = line

    def recv(self, _longest):
        """Some bytes; none at the end."""
        kind, content = self._line.receive()
        return content if kind == "o" else b""

    def sendall(self, data):
        """Sends bytes."""
        self._line.give(data)

    def close(self):
        """Closes it."""
        self._line.close()


class Job:
    """A command that runs in a host while the lab does something else."""

    def __init__(self, hand, command, take):
        self.command = command
        self.status = None
        self._line = hand.line()
        self._ended = threading.Event()
        threading.Thread(target=self._follow, args=(hand.order(command), take), daemon=True).start()

    def _follow(self, order, take):
        try:
            self._line.send("S", order.encode())
            self._line.end_input()
            while True:
                kind, content = self._line.receive()
                if kind == "x":
                    self.status = int(content)
                    return
                take(kind, content)
        except OSError:
            # The host is gone, or somebody called `end`.
            pass
        finally:
            self._ended.set()

    def wait(self, seconds):
        """Waits for its end; the exit status, or None if there is none."""
        self._ended.wait(seconds)
        return self.status

    def end(self):
        """Ends it, with all processes of its group."""
        self._line.close()
        self._ended.wait(5)


class Hand:
    """What the lab can do in one host."""

    def __init__(self, switchboard, name):
        self.switchboard = switchboard
        self.name = name

    def line(self, seconds=120):
        """An idle connection."""
        line = self.switchboard.line(self.name, seconds)
        if line is None:
            raise LabFailed(f"the agent of host {self.name} did not answer within {seconds:g} s")
        return line

    def order(self, command):
        """The command as the agent is told it."""
        return command

    def stream(self, command, take, given=b"", seconds=180):
        """Runs a shell command, hands each piece of output to `take(kind, bytes)` ('o' or 'e'), and returns the exit status."""
        line = self.line()
        watchdog = threading.Timer(seconds, line.close)
        watchdog.start()
        try:
            line.send("S", self.order(command).encode())
            line.give(given)
            line.end_input()
            while True:
                kind, content = line.receive()
                if kind == "x":
                    return int(content)
                take(kind, content)
        except OSError as error:
            why = f"did not end within {seconds:g} s" if watchdog.finished.is_set() else "broke off: the host is gone"
            raise LabFailed(f"'{command}' on host {self.name} {why}") from error
        finally:
            watchdog.cancel()
            line.close()

    def begin(self, command, take):
        """Begins a shell command, and hands each piece of output to `take(kind, bytes)`."""
        return Job(self, command, take)

    def run(self, command, given=b"", seconds=180):
        """Runs a shell command to its end, whatever that is."""
        pieces = {"o": bytearray(), "e": bytearray()}
        status = self.stream(command, lambda kind, content: pieces[kind].extend(content), given, seconds)
        return Result(status, *(pieces[kind].decode(errors="replace") for kind in "oe"))

    def check(self, command, given=b"", seconds=180):
        """Runs a shell command that must succeed, and returns its output."""
        result = self.run(command, given, seconds)
        if result.status:
            raise LabFailed(f"'{command}' on host {self.name} failed with status {result.status}: {(result.errors or result.output).strip()}")
        return result.output

    def put(self, content, path, mode="644"):
        """Writes a file there."""
        self.check(f"cat >'{path}' && chmod {mode} '{path}'", content)

    def connect(self, path, seconds=30, hopeless=lambda: False):
        """Connects to a unix socket there, as soon as it exists; tries no longer than there is hope."""
        deadline = time.monotonic() + seconds
        while True:
            line = self.line()
            line.send("C", path.encode())
            kind, content = line.receive()
            if kind == "o":
                return Relay(line)
            line.close()
            if time.monotonic() > deadline or hopeless():
                raise LabFailed(f"no connection on host {self.name}: {content.decode(errors='replace').strip()}")
            # Whoever will listen there cannot be asked when.
            time.sleep(0.05)
