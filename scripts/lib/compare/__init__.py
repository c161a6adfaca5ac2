"""What scripts/compare_modes is made of: one guest, moved by several machine monitors, watched from outside.

| module | what is in it |
|---|---|
| `options`  | the command line in, what to do out |
| `plan`     | which migrations to measure, and in which order |
| `channels` | the event loop, serial ports and QMP sockets; every byte and event with its time |
| `vmm`      | starting Whimbrel and QEMU alike, and ending them |
| `link`     | two network namespaces and the link of a known rate between them |
| `measure`  | one migration: boot, settle, move, look at the guest afterwards |
| `mode`     | what both sides told in, whether the migration was of its mode out |
| `timeline` | bytes and events in, figures out; no input or output |
| `table`    | runs in, Markdown and CSV out |
| `readme`   | runs in, README's tables out |
| `goals`    | runs in, the table of goals out |
| `picture`  | runs in, SVG of the guest's speed out |
| `latency`  | runs in, SVG of the waits for demanded pages out |
"""
