"""The README's walk-through, carried out as it is written there: a Debian guest with a disk moves between two hosts.

| module | what is in it |
|---|---|
| `blocks`   | the README's commands, and where each block of them belongs |
| `once`     | the disk and the kernel, made by the README's own commands and kept in the cache |
| `terminal` | a terminal in a host, with somebody at its keyboard |
| `steps`    | the walk itself |
| `run`      | from the README to the verdict |
"""

from .once import obstacle
from .run import run

__all__ = ["obstacle", "run"]
