"""A terminal in a host, with somebody at its keyboard."""

import codecs
import re
import shlex
import time

from ..channel import Channel
from ..progress import LabFailed


class Screen:
    """A command in a host as a connection: bytes both ways, and at its end the exit status."""

    def __init__(self, line):
        self._line = line
        self.status = None

    def recv(self, _longest):
        """Some of its output, none at the end."""
        while True:
            kind, content = self._line.receive()
            if kind == "x":
                self.status = int(content)
                return b""
            if content:
                return content

    def sendall(self, data):
        """Sends input."""
        self._line.give(data)

    def close(self):
        """Ends the command, with all processes of its group."""
        self._line.close()


class Terminal(Channel):
    """A block of commands that runs in a pseudo-terminal of a host, as it would for somebody who pasted it into a shell there."""

    def __init__(self, host, name, block, folder):
        self.host = host
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._log = open(folder / f"{host.name}.{name}.screen", "wb", buffering=0)
        self._read_up_to = 0
        path = f"/run/{name}.sh"
        host.hand.put(block.encode(), path)
        line = host.hand.line()
        # dash: a shell that runs the programs in its path; busybox's would prefer its own.
        line.send("S", f"exec script -qec {shlex.quote(f'dash -e {path}')} /dev/null 2>&1".encode())
        super().__init__(Screen(line), f"{name} on host {host.name}")

    def take(self, _now, data):
        """Takes in what appears on the screen, and writes it down."""
        self.text += self._decoder.decode(data).replace("\r", "")
        if not self._log.closed:
            self._log.write(data)

    def expect(self, pattern, seconds):
        """Waits until something new on the screen matches, and returns the match."""

        def appeared():
            found = re.compile(pattern, re.MULTILINE).search(self.text, self._read_up_to)
            if found:
                self._read_up_to = found.end()
            return found

        try:
            return self.wait(appeared, seconds, f"'{pattern}'")
        except LabFailed as why:
            raise LabFailed(f"{why}; {self.name} last said '{self.last_words()}'") from why

    def type(self, text):
        """Types something."""
        self.connection.sendall(text.encode())

    def finish(self, seconds):
        """Waits until the commands have ended; their exit status."""
        deadline = time.monotonic() + seconds
        with self.news:
            while not self.ended and time.monotonic() < deadline:
                self.news.wait(deadline - time.monotonic())
        return self.connection.status

    def last_words(self):
        """The last line on the screen."""
        return next((line.strip() for line in reversed(self.text.split("\n")) if line.strip()), "nothing")

    def close(self):
        """Ends the commands."""
        super().close()
        with self.news:
            self._log.close()
