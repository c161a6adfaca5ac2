"""What the lab listens to: consoles and QMP sockets in hosts. Every byte and event is kept with its time."""

import json
import threading
import time

from .progress import LabFailed


def is_complaint(line):
    """Whether a program of the guest, or its kernel, complains with this line."""
    return "ERROR" in line or "Kernel panic" in line


class Ended(LabFailed):
    """The other side of a channel is gone."""


class Channel:
    """A connection read by a thread of its own; `wait` sleeps until something that arrived makes its condition true.

    The connection is anything with `recv`, `sendall` and `close`.
    """

    def __init__(self, connection, name, news=None):
        self.connection = connection
        self.name = name
        self.ended = False
        self.news = news or threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self, happened, seconds, what):
        """Waits until `happened()` is true and returns its value; `what` completes 'waited N s for ...'."""
        deadline = time.monotonic() + seconds
        with self.news:
            while not (value := happened()):
                if self.ended:
                    raise Ended(f"{self.name} ended while the lab waited for {what}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise LabFailed(f"waited {seconds:g} s for {what}")
                self.news.wait(left)
            return value

    def close(self):
        """Closes it."""
        self.connection.close()

    def _read(self):
        while True:
            try:
                data = self.connection.recv(65536)
            except OSError:
                data = b""
            with self.news:
                if data:
                    self.take(time.monotonic(), data)
                else:
                    self.ended = True
                self.news.notify_all()
            if not data:
                return


class Qmp(Channel):
    """A QMP conversation, past its greeting."""

    def __init__(self, connection, name):
        self.events = []
        self._answers = {}
        self._greeted = False
        self._last_id = 0
        self._rest = b""
        super().__init__(connection, name)
        self.wait(lambda: self._greeted, 120, f"the greeting of {name}")
        self.execute("qmp_capabilities")

    def take(self, now, data):
        """Takes in bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for value in map(json.loads, filter(bytes.strip, lines)):
            if "event" in value:
                self.events.append((now, value["event"], value.get("data", {})))
            elif "QMP" in value:
                self._greeted = True
            else:
                self._answers[value.get("id")] = value

    def execute(self, command, seconds=180, **arguments):
        """Executes a command and returns its answer. Names of arguments are written with _ for -."""
        self._last_id += 1
        number = self._last_id
        message = {"execute": command, "id": number}
        if arguments:
            message["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Ended(f"{self.name} takes no commands any more") from error
        answer = self.wait(lambda: self._answers.pop(number, None), seconds, f"the answer of {self.name} to '{command}'")
        if "error" in answer:
            raise LabFailed(f"{self.name} refused '{command}': {answer['error']['desc']}")
        return answer["return"]

    def event(self, names, seconds, **wanted):
        """Waits for the first event of one of these names and with that data; returns its time, name and data."""
        named = names if isinstance(names, tuple) else (names,)

        def found():
            return next((it for it in self.events if it[1] in named and all(it[2].get(key) == value for key, value in wanted.items())), None)

        return self.wait(found, seconds, f"the event {' or '.join(named)} {wanted or ''} of {self.name}".replace("  ", " "))


class Serial(Channel):
    """One process's end of the guest's serial port: lines with the time at which each was complete."""

    def __init__(self, connection, name, news):
        self.lines = []
        self.rest = ""
        self.first = self.last = None
        super().__init__(connection, name, news)

    def take(self, now, data):
        """Takes in bytes."""
        self.first = self.first or now
        self.last = now
        *lines, self.rest = (self.rest + data.decode(errors="replace")).split("\n")
        self.lines += [(now, line.rstrip("\r")) for line in lines]


class Console:
    """A guest's serial port, wherever the guest is: the ends of all processes it ran in, one after the other."""

    def __init__(self, name):
        self.name = name
        self.ends = []
        self.news = threading.Condition()

    def attach(self, connection):
        """Listens to a further process, which the guest will reach later than those before."""
        end = Serial(connection, self.name, self.news)
        self.ends.append(end)
        return end

    def lines(self):
        """All complete lines so far. A line may begin on one host and end on the next."""
        lines, begun = [], ""
        with self.news:
            for end in self.ends:
                if end.lines:
                    lines += [(end.lines[0][0], begun + end.lines[0][1]), *end.lines[1:]]
                    begun = end.rest
                else:
                    begun += end.rest
        return lines

    def line(self, wanted, seconds, what, after=0, heed=True):
        """Waits for the first line from number `after` on that `wanted(line)` is true of: its number, time and text. Fails as soon as there is
        a complaint, if it is to `heed` those."""
        deadline = time.monotonic() + seconds
        number = after
        with self.news:
            while True:
                lines = self.lines()
                # The last one may have been seen while its other half was on its way.
                for number in range(max(after, number - 2), len(lines)):
                    if wanted(lines[number][1]):
                        return number, *lines[number]
                # Whoever complains ends, and what is waited for may never come.
                if heed and (complaint := next((line for _, line in lines if is_complaint(line)), None)):
                    raise LabFailed(f"{self.name} complains: {complaint}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise LabFailed(f"waited {seconds:g} s for {what}; {self.name} last said '{lines[-1][1] if lines else ''}'")
                self.news.wait(min(left, 1))

    def send(self, text):
        """Types something, where the guest is."""
        self.ends[-1].connection.sendall(text.encode())

    def text(self):
        """All of it, for logs: seconds of the lab's clock before each line."""
        return "".join(f"{now:.3f} {line}\n" for now, line in self.lines())
