"""RAM and saved states as files of a directory."""

import os
import re

from .source import PIECE
from .text import pretty


class Extract:
    """RAM and states as files of a directory. A guest's memory is nobody else's to read."""

    def __init__(self, directory):
        self.directory, self.names, self.blocks = directory, set(), []
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass

    def close(self):
        for file in self.blocks:
            file.close()

    def create(self, name):
        """The stream chose the name, so it is made harmless, and nothing that is there is followed or overwritten."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        if name.startswith("."):
            name = "_" + name[1:]
        while name in self.names:
            name += "_"
        self.names.add(name)
        path = os.path.join(self.directory, name)
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb", buffering=0)

    def block(self, block, page_size):
        file = self.create(f"{block.name}.ram")
        file.truncate(block.pages * page_size)
        self.blocks.append(file)

    def contents(self, run, page_size, source):
        at, left = run[1] * page_size, run[2] * page_size
        while left:
            data = source.read(min(left, PIECE))
            self.write(run[0], data, at)
            at, left = at + len(data), left - len(data)

    def write(self, block, data, at):
        while data:
            written = os.pwrite(self.blocks[block].fileno(), data, at)
            data, at = data[written:], at + written

    def state(self, name, instance, data, decoded):
        with self.create(f"{name}.{instance}.state") as file:
            file.write(data)
        with self.create(f"{name}.{instance}.json") as file:
            file.write(pretty(decoded).encode())
