"""The file, read once from its begin to its end; and bytes of one message."""

import os
import stat
import sys
import time

# What is read at once.
PIECE = 256 << 10


class Damage(Exception):
    """Bytes that are not what they should be, or that end."""

    def __init__(self, at, why):
        super().__init__(why)
        self.at, self.why = at, why


class Input:
    """The file, read once from its begin to its end."""

    def __init__(self, path, offset):
        self.file = sys.stdin.buffer if path == "-" else open(path, "rb", buffering=PIECE)
        status = os.fstat(self.file.fileno())
        self.length = status.st_size if path != "-" and stat.S_ISREG(status.st_mode) else None
        self.at, self.said = 0, time.monotonic()
        if self.length is None:
            self.skip(offset)
        else:
            self.at = self.file.seek(offset)

    def close(self):
        self.file.close()

    def behind(self):
        return None if self.length is None else max(0, self.length - self.at)

    def read(self, count):
        """Fewer at the end of the file only."""
        data = self.file.read(count)
        self.pass_(len(data))
        return data

    def skip(self, count):
        """How many there were: fewer at the end of the file only."""
        if self.length is not None:
            count = min(count, max(0, self.length - self.at))
            self.file.seek(count, os.SEEK_CUR)
            self.pass_(count)
            return count
        left = count
        while left and (data := self.read(min(left, PIECE))):
            left -= len(data)
        return count - left

    def pass_(self, count):
        self.at += count
        now = time.monotonic()
        if now - self.said > 1:
            self.said = now
            of = "" if self.length is None else f" of {self.length >> 20}"
            print(f"analyze_migration: {self.at >> 20}{of} MiB read", file=sys.stderr)


class Body:
    """The rest of one message's body."""

    def __init__(self, input, left):
        self.input, self.left = input, left

    @property
    def at(self):
        return self.input.at

    def had(self, wanted, had):
        self.left -= had
        if had < wanted:
            raise Damage(self.input.at, f"the file ends {self.left} bytes before it does")

    def read(self, count):
        data = self.input.read(count)
        self.had(count, len(data))
        return data

    def skip(self, count):
        self.had(count, self.input.skip(count))


class Memory:
    """Bytes that are in memory; in the file they stood at `at`."""

    def __init__(self, data, at):
        self.data, self.begin, self.place = data, at, 0

    @property
    def left(self):
        return len(self.data) - self.place

    @property
    def at(self):
        return self.begin + self.place

    def read(self, count):
        data = self.data[self.place : self.place + count]
        self.place += len(data)
        return data

    def skip(self, count):
        self.place += min(count, self.left)
