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
| `frames`, `switch`, `echo`, `network` | the network between the hosts: plain logic, and the process around it |
| `hosts`    | two hosts, their storage and their network, booted |
| `native`   | the same on this machine's own KVM: two network namespaces |
| `channel`  | consoles and QMP, every byte with its time |
| `guest`    | a guest, wherever it is, and its moves |
| `disk`     | images for guests, made before and looked into afterwards |
| `loads`    | what a guest does while it moves, and how it is told that this went well |
| `scenarios`| what is done with guests |
| `catalogue`| which cases there are, and which are the quick ones |
| `bench`    | where one case is worked on, and the run of many |
| `autopsy`  | what can be seen of a guest's process after a failure |
| `course`   | a run of the lab from the build to the table |
| `table`    | the result |
| `docs`     | the result on docs/lab.md |
| `progress` | lines with elapsed seconds, failures in one sentence |
| `boots`    | `boots`: kernels of Debian's archive, each started as far as it gets |
| `developer`| `run`, `boot-linux` and `shell`: the lab for trying things by hand |
| `walkthrough`| what the README says about a Debian guest, carried out |
"""
