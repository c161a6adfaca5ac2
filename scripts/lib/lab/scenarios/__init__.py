"""What is done with guests. Each scenario takes a `Bench` and returns its moves; it raises `LabFailed` with what went wrong.

| module | scenarios of the catalogue |
|---|---|
| `builtin` | 0: the built-in test guest |
| `journey` | 1 memory, 2 records on a disk, 3 ping, 4 clocks, 7 ten moves there and back |
| `moments` | 5: at random moments of the boot |
| `endings` | 6: reboot and power-off while it moves |
"""
