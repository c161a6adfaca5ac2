"""The event loop, and what it listens to: serial ports and QMP sockets. Every byte and event is kept with its time."""

import json
import selectors
import socket
import time


class RunFailed(Exception):
    """Why a run gave no figures, in one sentence."""


class RunSkipped(Exception):
    """What a VMM lacks for a run, in one sentence."""


class Loop:
    """Waits for all channels at once, so that each byte gets its time while the driver waits for something else."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()

    def add(self, channel):
        """Listens to a channel from now on."""
        self.selector.register(channel.socket, selectors.EVENT_READ, channel)

    def remove(self, channel):
        """Closes a channel and forgets it."""
        if channel.socket.fileno() >= 0:
            if channel.socket in self.selector.get_map():
                self.selector.unregister(channel.socket)
            channel.socket.close()

    def until(self, happened, seconds, what, every=None):
        """Listens until `happened()` is true and returns its value; `what` completes 'waited N s for ...'.

        Whether it has happened is looked at whenever something was heard, or once in so many seconds.
        """
        deadline = time.monotonic() + seconds
        while not (value := happened()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise RunFailed(f"waited {seconds:g} s for {what}")
            if every:
                self.listen(min(every, left))
                continue
            for key, _ in self.selector.select(left):
                self._read(key.data, time.monotonic())
        return value

    def listen(self, seconds):
        """Listens for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in self.selector.select(left):
                self._read(key.data, time.monotonic())

    def _read(self, channel, now):
        try:
            data = channel.socket.recv(65536)
        except ConnectionError:
            data = b""
        if data:
            channel.take(now, data)
        else:
            self.selector.unregister(channel.socket)
            channel.ended = True


class Channel:
    """A unix socket to a VMM."""

    def __init__(self, loop, path, name):
        self.loop = loop
        self.name = name
        self.ended = False
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        loop.add(self)

    def send(self, data):
        """Sends bytes, all of them."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise RunFailed(f"{self.name} took no more input ({error.strerror})") from error

    def check(self):
        """Fails if the other side is gone."""
        if self.ended:
            raise RunFailed(f"{self.name} ended early")


class Serial(Channel):
    """A guest's serial port."""

    def __init__(self, loop, path, name):
        super().__init__(loop, path, name)
        self.arrivals = []
        self.text = bytearray()

    def take(self, now, data):
        self.arrivals.append((now, data))
        self.text += data

    def record(self, beginning, seconds, start=0):
        """Waits for the record that begins so after byte `start`, and returns it. Firmware may have begun its line."""

        def found():
            why = self._from("\nX ", 0)
            if why is not None:
                raise RunFailed(f"the guest gave up: {why[3:]}")
            line = self._from(beginning, start)
            if line is None:
                self.check()
            return line

        return self.loop.until(found, seconds, f"'{beginning}' from {self.name}")

    def _from(self, beginning, start):
        at = self.text.find(beginning.encode(), start)
        end = self.text.find(b"\n", at + 1) if at >= 0 else -1
        return self.text[at:end].decode(errors="replace") if end >= 0 else None


class Qmp(Channel):
    """A QMP conversation, past its greeting."""

    def __init__(self, loop, path, name):
        super().__init__(loop, path, name)
        self.events = []
        self.answers = {}
        self.greeted = False
        self.last_id = 0
        self.rest = b""
        loop.until(lambda: self.greeted or self.check(), 30, f"the greeting of {name}")
        self.execute("qmp_capabilities")

    def take(self, now, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in filter(bytes.strip, lines):
            value = json.loads(line)
            if "event" in value:
                self.events.append((now, value["event"], value.get("data", {})))
            elif "QMP" in value:
                self.greeted = True
            else:
                self.answers[value.get("id")] = value

    def execute(self, command, seconds=30, **arguments):
        """Executes a command and returns its answer; a refusal fails the run."""
        answer = self.attempt(command, seconds, **arguments)
        if "error" in answer:
            raise RunFailed(f"{self.name} refused '{command}': {answer['error']['desc']}")
        return answer["return"]

    def attempt(self, command, seconds=30, **arguments):
        """Executes a command and returns the answer, be it an error."""
        self.last_id += 1
        number = self.last_id
        message = {"execute": command, "id": number}
        if arguments:
            message["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.send(json.dumps(message).encode() + b"\n")

        def answered():
            if number not in self.answers:
                self.check()
            return self.answers.get(number)

        return self.loop.until(answered, seconds, f"the answer of {self.name} to '{command}'")

    def when(self, event, **data):
        """The time of the first event of that name and data, or None."""
        for now, name, found in self.events:
            if name == event and all(found.get(key) == value for key, value in data.items()):
                return now
        return None

    def statuses(self):
        """Those that a migration had, in order."""
        return tuple(data.get("status") for _, name, data in self.events if name == "MIGRATION")

    def failed(self):
        """Whether it told of a failed migration."""
        return self.when("MIGRATION", status="failed") is not None
