"""What scripts/lab is made of: emulated Linux hosts, and a Linux guest that moves between them.

| module | what is in it |
|---|---|
| `debian`   | Debian's packages, downloaded and unpacked, never installed |
| `kernel`   | a kernel and the modules wanted, in the order in which they load |
| `cpio`     | writing an initramfs |
| `build`    | the programs that run in the lab, built by cargo, with the libraries they need |
| `images`   | the initramfs of a host and of the guest |
| `agent`    | the lab's end of the control channel: commands in a host, relayed sockets |
| `machine`  | an emulated host: QEMU started, its agent awaited, all ended |
| `progress` | lines with elapsed seconds, failures in one sentence |
| `developer`| `run`, `boot-linux` and `shell`: the lab for trying things by hand |
"""
