"""The walk itself: the README's blocks on the hosts that they name, and somebody who looks whether it is as it says there."""

import re
import time

from ..channel import Qmp
from ..guest import Move
from ..hosts import SHARED
from ..progress import LabFailed
from . import blocks, once
from .terminal import Terminal

# Whoever reads the README has a network of their own; this is the lab's.
ADDRESS = "192.168.77.100"
MAC = "52:54:00:12:34:56"
DISK = "debian.raw"
QMP = "/run/debian.qmp"
MEMO = "written before the move"

BOOT_SECONDS = 400
STEP_SECONDS = 90
PROMPT = r"root@\S+:\S+# "
COMPLAINT = re.compile(r"^.*(?:BUG:|WARNING:|Oops:|Call Trace|Kernel panic|blocked for more than|I/O error).*$", re.MULTILINE)


class Walk:
    """One walk. The hosts are two of the lab's; what is on the screens goes to `folder`, and `tell` is told of each step."""

    def __init__(self, hosts, commands, folder, tell):
        self.hosts = hosts
        self.commands = commands
        self.folder = folder
        self.tell = tell
        self.terminals = []

    def go(self):
        """All of it; what the migration cost."""
        self._names()
        for host in (self.hosts.a, self.hosts.b):
            self._runs(host, "tap", blocks.BOTH)
        second = self._terminal(self.hosts.b, "second", blocks.SECOND)
        first = self._terminal(self.hosts.a, "first", blocks.FIRST)
        self._log_in(first)
        self._work(first)
        move = self._move(first, second)
        self._look_after(first, second)
        self._boot_again(second)
        self._power_off(second)
        self._examine_disk()
        return move

    def _names(self):
        """The names that the README takes for granted. The tap's it makes itself, and the lab's hosts come with one of that name."""
        for host in (self.hosts.a, self.hosts.b):
            host.hand.check(f"tunctl -d tap0 && mkdir -p /srv && ln -s {SHARED} {once.SHARED}")
            host.hand.check(f"echo {self.hosts.b.address} hostb >/etc/hosts")

    def _terminal(self, host, name, place):
        terminal = Terminal(host, name, self.commands[place], self.folder)
        self.terminals.append(terminal)
        return terminal

    def _runs(self, host, name, place):
        """Runs a block that must succeed."""
        terminal = self._terminal(host, name, place)
        if status := terminal.finish(STEP_SECONDS * 3):
            raise LabFailed(f"the README's commands '{place}' ended with status {status} on host {host.name}: {terminal.last_words()}")
        if status is None:
            raise LabFailed(f"the README's commands '{place}' did not end on host {host.name}: {terminal.last_words()}")

    def _log_in(self, terminal):
        """root needs no password."""
        terminal.expect(r"login: ", BOOT_SECONDS)
        self.tell(f"the guest asks for a login on host {terminal.host.name}")
        terminal.type("root\n")
        terminal.expect(PROMPT, STEP_SECONDS)

    def _work(self, terminal):
        """A file on the disk, a note in the shell's own memory, and the network."""
        self._do(terminal, f"echo '{MEMO}' >/root/memo && memory=$$")
        self._do(terminal, f"ip addr add {ADDRESS}/24 dev eth0 && ip link set eth0 up")
        self.hosts.network.ping(MAC, ADDRESS)
        self._answers("before the move")

    def _do(self, terminal, command):
        """Types a command into the guest's shell, which must succeed; what it prints."""
        # What is typed is echoed, and must not pass for the answer.
        terminal.type(f"{command}; echo =$((40 + 2))=$?=\n")
        answer = terminal.expect(r"\n((?:.*\n)*?).*=42=(\d+)=", STEP_SECONDS)
        terminal.expect(PROMPT, STEP_SECONDS)
        if answer[2] != "0":
            raise LabFailed(f"'{command}' in the guest on host {terminal.host.name} ended with status {answer[2]}: {answer[1].strip()}")
        return answer[1]

    def _accept(self, terminal):
        """The guest's kernel has complained of nothing since the login. Before that it may: the README's command line has no
        'noxsave', which the lab's emulated processor would need, and it finds that out by itself."""
        if found := COMPLAINT.search(terminal.text.rpartition("login: ")[2]):
            raise LabFailed(f"the guest's kernel complains on host {terminal.host.name}: {found[0].strip()}")

    def _answers(self, when):
        """The guest answers a ping from outside."""
        deadline = time.monotonic() + STEP_SECONDS
        while not (seen := self.hosts.network.pinged(MAC))["answered"]:
            if time.monotonic() > deadline:
                raise LabFailed(f"the guest answered no ping {when}")
            self.hosts.network.ping(MAC, ADDRESS)
            # Pings are counted by the network's own process, which has no news to await.
            time.sleep(1)
        self.hosts.network.ping(MAC, ADDRESS)
        return seen

    def _move(self, first, second):
        """The move, by the README's command; its figures."""
        self._runs(first.host, "move", blocks.MOVE)
        self.tell("'whimbrel migrate' ended with 0")
        qmp = Qmp(first.host.hand.connect(QMP), "the first process")
        told, state = qmp.execute("query-migrate"), qmp.execute("query-status")["status"]
        qmp.close()
        if state != "postmigrate":
            raise LabFailed(f"the first process is in state {state}, not postmigrate")
        time.sleep(2)
        seen = self._answers("after the move")
        reached = [it.reached for it in self.hosts.network.moves(MAC)]
        if not reached or reached[-1] != second.host.name:
            raise LabFailed(f"the switch saw the guest move to {reached or 'nowhere'}, not to host {second.host.name}")
        return Move("hybrid", told["total-time"] / 1000, told["downtime"] / 1000, (), seen["gap"], seen["lost"])

    def _look_after(self, first, second):
        """The console goes on in the second host's terminal, in the same shell; the first process stays until Ctrl-C."""
        found = self._do(second, '[ "$memory" = $$ ] && cat /root/memo')
        if MEMO not in found:
            raise LabFailed(f"the file reads '{found.strip()}' after the move")
        self._accept(first)
        self._accept(second)
        self.tell(f"the console goes on at host {second.host.name}, and the file is there")
        if first.ended:
            raise LabFailed(f"the first process did not stay: {first.last_words()}")
        first.type("\x03")
        if (status := first.finish(STEP_SECONDS)) is None:
            raise LabFailed("Ctrl-C did not end the first process")
        self.tell(f"Ctrl-C ended the first process with status {status}")

    def _boot_again(self, second):
        second.type("reboot\n")
        self._log_in(second)
        if MEMO not in self._do(second, "cat /root/memo"):
            raise LabFailed("the file is gone after the reboot")

    def _power_off(self, second):
        self._accept(second)
        second.type("poweroff\n")
        if status := second.finish(BOOT_SECONDS):
            raise LabFailed(f"after the guest's poweroff the second process ended with status {status}: {second.last_words()}")
        if status is None:
            raise LabFailed(f"the guest's poweroff did not end the second process: {second.last_words()}")
        self.tell("'poweroff' ended the second process with 0")

    def _examine_disk(self):
        """The guest's file system is clean, and holds the file. Looked at in the storage host, past NFS."""
        disk = f"/export/{DISK}"
        self.hosts.store.check(f"e2fsck -f -n {disk}", seconds=BOOT_SECONDS)
        features, memo = (self.hosts.store.check(f"debugfs -R '{request}' {disk}") for request in ("features", "cat /root/memo"))
        if "needs_recovery" in features:
            raise LabFailed("the guest's file system was not unmounted: its journal waits to be replayed")
        if memo.strip() != MEMO:
            raise LabFailed(f"the file on the disk reads '{memo.strip()}'")
        self.tell("the disk is clean")

    def end(self):
        """Leaves nothing running."""
        for terminal in self.terminals:
            terminal.close()
