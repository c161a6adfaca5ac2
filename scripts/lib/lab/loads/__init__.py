"""What a guest does while it moves, and how it is told that this went well.

Several go together.

| module | loads |
|---|---|
| `load`    | the steps of any load |
| `work`    | `Memory`, `Clocks` |
| `records` | `Records` |
| `ping`    | `Ping` |
| `devices` | `Entropy`, `FreePages`, `VirtioConsole` |
"""

from .devices import Entropy, FreePages, VirtioConsole
from .ping import Ping
from .records import Records
from .work import Clocks, Memory

__all__ = ["Clocks", "Entropy", "FreePages", "Memory", "Ping", "Records", "VirtioConsole"]
