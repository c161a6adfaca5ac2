"""QEMU and Whimbrel with the same guest, as source and as destination."""

import json
import os
import shutil
import subprocess
import tempfile
import time

from compare.channels import Channel, Qmp, RunFailed, Serial

# Slowly enough for a postcopy to last.
WORDS = "ws=32M order=rand write=50 rate=500 cpus=1 beat_us=1000 beat_bytes=1"


class Kind:
    """One of the two VMMs."""

    def __init__(self, name, binary, guest=None, accelerator="tcg"):
        self.name = name
        self.binary = binary
        self.guest = guest
        self.accelerator = accelerator

    def command(self, directory, incoming):
        sockets = {what: os.path.join(directory, what) for what in ("qmp", "hmp", "serial")}
        disk = os.path.join(directory, "disk")
        if self.name == "QEMU":
            cpu = "max" if self.accelerator == "tcg" else "host,-arch-capabilities"
            begin = ["-incoming", "defer"] if incoming else ["-S"]
            return [
                self.binary, "-accel", self.accelerator, "-cpu", cpu, "-m", "64M", "-smp", "1", "-nodefaults", "-nographic", "-name", "guest",
                "-qmp", f"unix:{sockets['qmp']},server=on,wait=off", "-monitor", f"unix:{sockets['hmp']},server=on,wait=off",
                "-serial", f"unix:{sockets['serial']},server=on,wait=off", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
                "-drive", f"file={disk},format=raw,if=none,id=disk0,file.locking=off", "-device", "virtio-blk-pci,drive=disk0",
                "-kernel", self.guest, "-append", WORDS, *begin,
            ]  # fmt: skip
        begin = ["--incoming", "defer"] if incoming else ["--kernel", "builtin:test", "--cmdline", WORDS, "--paused"]
        return [
            self.binary, "run", "--memory", "64M", "--cpus", "1", "--name", "guest", "--qmp", f"unix:{sockets['qmp']},server",
            "--monitor", f"unix:{sockets['hmp']},server", "--serial", f"unix:{sockets['serial']},server", "--disk", f"path={disk},format=raw", *begin,
        ]  # fmt: skip


class Hmp(Channel):
    """The monitor for people on a socket of its own."""

    def __init__(self, loop, path, name):
        super().__init__(loop, path, name)
        self.text = b""

    def take(self, _now, data):
        self.text += data


class Peer:
    """A process: `said` is what it answered, by moments."""

    def __init__(self, loop, kind, role, said):
        self.loop, self.kind, self.role, self.said = loop, kind, role, said
        self.moment = None
        self.qmp = self.hmp = self.serial = self.process = None
        self.directory = tempfile.mkdtemp(prefix="qmp_differences.")
        try:
            with open(os.path.join(self.directory, "disk"), "wb") as disk:
                disk.truncate(1 << 20)
            with open(os.path.join(self.directory, "log"), "wb") as log:
                command = kind.command(self.directory, role == "destination")
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.qmp = self._connect(Qmp, "qmp")
            self.hmp = self._connect(Hmp, "hmp")
            self.serial = self._connect(Serial, "serial")
        except BaseException:
            self.end()
            raise

    def _connect(self, channel, what):
        deadline = time.monotonic() + 30
        while True:
            try:
                return channel(self.loop, os.path.join(self.directory, what), f"the {what} socket of {self.kind.name}'s {self.role}")
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RunFailed(f"{self.kind.name} offers no {what} socket: {self.last_words()}") from error
            # A socket that appears cannot be awaited without inotify, which Python does not offer.
            time.sleep(0.01)

    def last_words(self):
        with open(os.path.join(self.directory, "log"), encoding="utf-8", errors="replace") as log:
            lines = [line.strip() for line in log if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def ask(self, name, arguments=None, key="execute"):
        """The whole answer; the arguments go as they are."""
        self.qmp.last_id += 1
        number = self.qmp.last_id
        message = {key: name, "id": number}
        if arguments is not None:
            message["arguments"] = arguments
        self.qmp.send(json.dumps(message).encode() + b"\n")

        def answered():
            if number not in self.qmp.answers:
                self.qmp.check()
            return self.qmp.answers.get(number)

        return self.loop.until(answered, 30, f"the answer of {self.kind.name}'s {self.role} to '{name}'")

    def do(self, name, arguments=None):
        """The same where a refusal ends the dialogue."""
        value = self.ask(name, arguments)
        if "error" in value:
            raise RunFailed(f"{self.kind.name}'s {self.role} refused '{name}': {value['error']['desc']}")
        return value["return"]

    def statuses(self):
        return [data["status"] for _, name, data in self.qmp.events if name == "MIGRATION"]

    def until(self, *statuses):
        """Waits for the first of these statuses that is told after the last one that was waited for."""

        def reached():
            if self.statuses()[-1:] and self.statuses()[-1] in statuses:
                return True
            return self.qmp.ended and "ended"

        what = f"'{' or '.join(statuses)}' of {self.kind.name}'s {self.role}, which told {' '.join(self.statuses()) or 'nothing'}"
        if self.loop.until(reached, 60, what) == "ended":
            raise RunFailed(f"{self.kind.name}'s {self.role} ended: {self.last_words()}")

    def end(self):
        for channel in (self.qmp, self.hmp, self.serial):
            if channel is not None:
                self.loop.remove(channel)
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
