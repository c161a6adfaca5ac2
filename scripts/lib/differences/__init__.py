"""How Whimbrel's monitor differs from QEMU's, found by saying the same to both.

`peer` starts the two alike, `dialogues` says what there is to say and keeps what was answered, `shape` makes answers comparable and finds the
differences, `schema` makes a flat record of QEMU's own description, `explained` reads docs/qemu-compatibility.md.
"""
