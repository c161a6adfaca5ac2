"""What is said to both, in the same order. Each dialogue has a source and a destination of one VMM."""

import os
import signal

from . import shape
from .peer import Peer

SLOW = 1 << 20
QUERIES = (
    "query-migrate", "query-migrate-capabilities", "query-migrate-parameters", "query-status", "query-name", "query-uuid", "query-version", "query-kvm",
    "query-accelerators", "query-cpus-fast", "query-block", "query-jobs", "query-yank", "query-dirty-rate", "query-vcpu-dirty-limit", "query-balloon",
)  # fmt: skip
LINES = (
    "info migrate", "info migrate -a", "info migrate_capabilities", "info migrate_parameters", "info status", "info cpus", "info name", "info uuid",
    "info kvm", "info accelerators", "info dirty_rate", "info vcpu_dirty_limit", "info balloon", "info network", "info nothing", "nothing", "migrate",
    "migrate -x tcp:127.0.0.1:1", "migrate -r tcp:127.0.0.1:1", "migrate nowhere", "migrate_set_capability nothing on",
    "migrate_set_capability postcopy-ram maybe", "migrate_set_parameter nothing 1", "migrate_set_parameter max-bandwidth x",
    "migrate_set_parameter downtime-limit -1", "migrate_cancel", "migrate_pause", "migrate_start_postcopy", "migrate_recover tcp:127.0.0.1:1",
    "migrate_incoming tcp:127.0.0.1:0", "getfd x", "closefd x", "balloon 1",
)  # fmt: skip
MAIN = {"channel-type": "main", "addr": {"transport": "socket", "type": "inet", "host": "127.0.0.1", "port": "1"}}
REFUSALS = (
    ("migrate", {}),
    ("migrate", {"channels": []}),
    ("migrate", {"uri": "tcp:127.0.0.1:1", "channels": [MAIN]}),
    ("migrate", {"channels": [MAIN | {"channel-type": "other"}]}),
    ("migrate", {"channels": [{"channel-type": "main"}]}),
    ("migrate", {"channels": [{"channel-type": "main", "addr": {"transport": "socket", "type": "inet", "host": "127.0.0.1"}}]}),
    ("migrate", {"channels": [MAIN, MAIN]}),
    ("migrate", {"uri": "nowhere"}),
    ("migrate", {"uri": "nowhere:1"}),
    ("migrate", {"uri": "tcp:127.0.0.1:1", "resume": True}),
    ("migrate", {"uri": "tcp:127.0.0.1:1", "detach": True}),
    ("migrate-incoming", {}),
    ("migrate-incoming", {"uri": "tcp:127.0.0.1:0"}),
    ("migrate-pause", None),
    ("migrate-recover", {"uri": "tcp:127.0.0.1:1"}),
    ("migrate-continue", {"state": "pre-switchover"}),
    ("migrate-continue", {"state": "nowhere"}),
    ("migrate-start-postcopy", None),
    ("migrate_cancel", None),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "nothing", "state": True}]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "xbzrle"}]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "xbzrle", "state": 1}]}),
    ("migrate-set-parameters", {"nothing": 1}),
    ("migrate-set-parameters", {"tls-creds": None}),
    ("migrate-set-parameters", {"tls-hostname": None}),
    ("migrate-set-parameters", {"mode": "normal"}),
    ("migrate-set-parameters", {"mode": "nothing"}),
    ("migrate-set-parameters", {"multifd-compression": "nothing"}),
    ("migrate-set-parameters", {"downtime-limit": -1}),
    ("migrate-set-parameters", {"downtime-limit": "1"}),
    ("migrate-set-parameters", {"multifd-channels": 0}),
    ("migrate-set-parameters", {"xbzrle-cache-size": 100}),
    ("migrate-set-parameters", {"cpu-throttle-initial": 100}),
    ("migrate-set-parameters", {"announce-rounds": 1001}),
    ("migrate-set-parameters", {"max-bandwidth": -1}),
    ("migrate-set-parameters", {"max-bandwidth": (1 << 64) - 1}),
    ("migrate-set-parameters", {"max-bandwidth": 0}),
    ("yank", {"instances": [{"type": "migration"}]}),
    ("yank", {"instances": [{"type": "nothing"}]}),
    ("calc-dirty-rate", {"calc-time": 0}),
    ("calc-dirty-rate", {"calc-time": 1, "mode": "nothing"}),
    ("query-dirty-rate", {"calc-time-unit": "millisecond"}),
    ("query-dirty-rate", {"calc-time-unit": "year"}),
    ("query-block", {"flat": True}),
    ("cancel-vcpu-dirty-limit", None),
    ("job-dismiss", {"id": "nothing"}),
    ("closefd", {"fdname": "nothing"}),
    ("getfd", {"fdname": "nothing"}),
    ("balloon", {"value": 1 << 20}),
    ("announce-self", {"initial": 1}),
    ("human-monitor-command", {"command-line": "info registers", "cpu-index": 7}),
    ("human-monitor-command", {"command-line": "info status", "cpu-index": 0}),
    ("nothing", None),
    ("qmp_capabilities", None),
)


class Stage:
    """The source and the destination of one dialogue; what they say stands in `said`, by moments."""

    def __init__(self, loop, kind, name, said):
        self.loop, self.kind, self.name, self.said = loop, kind, name, said
        self.peers = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for peer in self.peers:
            peer.end()

    def start(self, role):
        peer = Peer(self.loop, self.kind, role, self.said)
        self.peers.append(peer)
        return peer

    def pair(self, *capabilities, **parameters):
        """Source and destination, set alike; the source's guest runs and the destination waits."""
        source, destination = self.start("source"), self.start("destination")
        for peer in (source, destination):
            wanted = {name: name in capabilities for name in ("multifd", "postcopy-ram", "postcopy-blocktime", "pause-before-switchover", "xbzrle")}
            wanted["events"] = True
            peer.do("migrate-set-capabilities", {"capabilities": [{"capability": name, "state": on} for name, on in wanted.items()]})
        if "preempt" in capabilities and self.kind.name == "QEMU":
            for peer in (source, destination):
                peer.do("migrate-set-capabilities", {"capabilities": [{"capability": "postcopy-preempt", "state": True}]})
        source.do("migrate-set-parameters", {"max-bandwidth": SLOW} | parameters)
        source.do("cont")
        source.serial.record("B whimbrel-guest", 120)
        self.keep(destination, "migrate-incoming", self.listen(destination))
        return source, destination

    def address(self):
        return os.path.join(self.peers[-1].directory, "migration")

    def listen(self, destination):
        return destination.ask("migrate-incoming", {"uri": f"unix:{self.address()}"})

    def keep(self, peer, what, answer, moment=None):
        at = f"{self.name} {moment}" if moment else self.name
        self.said[f"{what} @ {at}, {peer.role}"] = shape.answer(answer)

    def ask(self, peer, name, arguments=None, moment=None):
        what = name if arguments is None else f"{name} {_short(arguments)}".replace(f"{self.peers[-1].directory}/", "")
        what = what.replace(f"{peer.directory}/", "")
        answer = peer.ask(name, arguments)
        self.keep(peer, what, answer, moment)
        return answer

    def look(self, peer, moment):
        """What is asked again and again."""
        found = self.ask(peer, "query-migrate", moment=moment)["return"]
        self.ask(peer, "query-status", moment=moment)
        for line in ("info migrate", "info migrate -a"):
            self.keep(peer, line, peer.ask("human-monitor-command", {"command-line": line}), moment)
        ram = found.get("ram")
        if ram and peer.role == "source":
            parts = sum(ram[f"{part}-bytes"] for part in ("precopy", "downtime", "postcopy", "multifd"))
            # The figures are not of one moment while pages go.
            if found["status"] in ("completed", "postcopy-paused"):
                self.said[f"sum of bytes @ {self.name} {moment}, {peer.role}"] = ("text", [f"parts - transferred: {sign(parts - ram['transferred'])}"])
        if found.get("status") == "completed" and "postcopy-latency-dist" in found:
            buckets = len(found["postcopy-latency-dist"])
            self.said[f"buckets @ {self.name} {moment}, {peer.role}"] = ("text", [f"postcopy-latency-dist: {buckets}"])

    def events(self, *peers, without=()):
        """Every event so far."""
        for peer in peers:
            told = [(name, data) for _, name, data in peer.qmp.events if name not in without and name != "RTC_CHANGE"]
            self.said[f"events @ {self.name}, {peer.role}"] = ("events", shape.sequence(told))


def sign(number):
    return "0" if number == 0 else "less" if number < 0 else "more"


def _short(arguments):
    words = []
    for name, value in arguments.items():
        words.append(f"{name}={value}" if not isinstance(value, (list, dict)) else f"{name}={_inner(value)}")
    return " ".join(words).replace("|", "/")


def _inner(value):
    if isinstance(value, dict):
        return "{" + " ".join(f"{name}={_inner(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + " ".join(map(_inner, value)) + "]"
    return str(value)


def idle(stage):
    """Nothing is under way."""
    source = stage.start("source")
    for name in QUERIES:
        stage.ask(source, name)
    for line in LINES:
        stage.keep(source, line, source.ask("human-monitor-command", {"command-line": line}))
    for name, arguments in REFUSALS:
        stage.ask(source, name, arguments)
    source.hmp.send(b"info status\n")
    stage.loop.until(lambda: b"VM status" in source.hmp.text and source.hmp.text.endswith(b") "), 10, "the prompt")
    ends = "CR LF" if source.hmp.text.rpartition(b"VM status")[2].split(b"\n")[0].endswith(b"\r") else "LF"
    stage.said["ends of lines @ idle, source"] = ("text", [ends])
    stage.events(source)


def waiting(stage):
    """A destination that nobody has come to."""
    destination = stage.start("destination")
    stage.look(destination, "deferred")
    stage.ask(destination, "migrate", {"uri": "tcp:127.0.0.1:1"})
    stage.ask(destination, "migrate-incoming", {"uri": "nowhere"})
    stage.ask(destination, "migrate-incoming", {})
    stage.ask(destination, "migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    stage.ask(destination, "migrate-incoming", {"uri": "tcp:127.0.0.1:0"})
    stage.look(destination, "listening")
    stage.ask(destination, "migrate-incoming", {"uri": "tcp:127.0.0.1:0"}, "again")
    stage.ask(destination, "migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}, "listening")
    stage.ask(destination, "migrate-start-postcopy")
    stage.ask(destination, "migrate-pause")
    stage.ask(destination, "migrate-recover", {"uri": "tcp:127.0.0.1:0"})
    for name in ("system_reset", "stop", "cont"):
        stage.ask(destination, name)
    stage.events(destination)


def precopy(stage, *capabilities):
    source, destination = stage.pair(*capabilities)
    stage.ask(source, "migrate", {"uri": f"unix:{stage.address()}"})
    source.until("active")
    destination.until("active")
    stage.loop.listen(0.4)
    stage.look(source, "active")
    stage.look(destination, "active")
    stage.ask(source, "migrate", {"uri": "tcp:127.0.0.1:1"}, "again")
    stage.ask(source, "migrate-set-capabilities", {"capabilities": [{"capability": "xbzrle", "state": True}]}, "on the way")
    stage.ask(source, "migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}, "on the way")
    stage.ask(source, "migrate-start-postcopy", None, "on the way")
    stage.ask(source, "migrate-pause", None, "on the way")
    stage.ask(source, "migrate-continue", {"state": "pre-switchover"}, "on the way")
    source.do("migrate-set-parameters", {"max-bandwidth": 0, "downtime-limit": 2000})
    source.until("completed")
    destination.until("completed")
    stage.loop.until(lambda: destination.qmp.when("RESUME"), 30, "RESUME")
    stage.look(source, "completed")
    stage.look(destination, "completed")
    stage.ask(destination, "query-yank", None, "completed")
    stage.ask(source, "migrate_cancel", None, "completed")
    stage.ask(source, "migrate", {"uri": "tcp:127.0.0.1:1"}, "completed")
    stage.ask(destination, "migrate-recover", {"uri": "tcp:127.0.0.1:0"}, "completed")
    stage.events(source, destination)


def multifd(stage):
    """Precopy on several channels."""
    precopy(stage, "multifd")


def into_postcopy(stage, moment):
    """Source and destination of a postcopy that takes its time; `moment` is called before the switch."""
    source, destination = stage.pair("postcopy-ram", "postcopy-blocktime", "preempt", **{"max-postcopy-bandwidth": SLOW})
    source.do("migrate", {"uri": f"unix:{stage.address()}"})
    source.until("active")
    moment(source)
    stage.ask(source, "migrate-start-postcopy")
    source.until("postcopy-active")
    destination.until("postcopy-active")
    stage.loop.until(lambda: destination.qmp.when("RESUME"), 30, "RESUME")
    return source, destination


def out_of_postcopy(stage, source, destination):
    """To its end."""
    source.do("migrate-set-parameters", {"max-postcopy-bandwidth": 0})
    source.until("completed")
    destination.until("completed")
    stage.look(source, "completed")
    stage.look(destination, "completed")


def postcopy(stage):
    source, destination = into_postcopy(stage, lambda source: None)
    stage.loop.listen(0.4)
    stage.look(source, "postcopy-active")
    stage.look(destination, "postcopy-active")
    stage.ask(source, "migrate_cancel", None, "postcopy-active")
    stage.ask(source, "migrate-start-postcopy", None, "postcopy-active")
    out_of_postcopy(stage, source, destination)
    # How often QEMU looks at the log before is a matter of time.
    stage.events(source, destination, without=("MIGRATION_PASS",))


def hybrid(stage):
    def after_a_pass(source):
        source.do("migrate-set-parameters", {"max-bandwidth": 64 << 20, "downtime-limit": 1})
        stage.loop.until(lambda: passed(source) or source.qmp.ended, 60, "the end of the first pass")
        source.do("migrate-set-parameters", {"max-bandwidth": SLOW})

    source, destination = into_postcopy(stage, after_a_pass)
    out_of_postcopy(stage, source, destination)
    stage.events(source, destination, without=("MIGRATION_PASS",))


def passed(source):
    """Whether every page went once."""
    ram = source.do("query-migrate")["ram"]
    return ram["normal"] + ram["duplicate"] >= ram["total"] // ram["page-size"]


def cancel(stage):
    source, destination = stage.pair()
    source.do("migrate", {"uri": f"unix:{stage.address()}"})
    source.until("active")
    destination.until("active")
    stage.ask(source, "migrate_cancel")
    source.until("cancelled")
    stage.look(source, "cancelled")
    stage.ask(source, "migrate_cancel", None, "again")
    stage.events(source)


def failure(stage):
    """The destination dies."""
    source, destination = stage.pair()
    source.do("migrate", {"uri": f"unix:{stage.address()}"})
    source.until("active")
    destination.process.send_signal(signal.SIGKILL)
    source.until("failed")
    stage.look(source, "failed")
    stage.events(source)


def nobody(stage):
    """There is no destination."""
    source = stage.start("source")
    source.do("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    stage.ask(source, "migrate", {"uri": f"unix:{source.directory}/nobody"})
    source.until("failed")
    stage.look(source, "failed")
    stage.events(source)


def hold(stage):
    """pause-before-switchover."""
    source, destination = stage.pair("pause-before-switchover", **{"max-bandwidth": 0, "downtime-limit": 2000})
    source.do("migrate", {"uri": f"unix:{stage.address()}"})
    source.until("pre-switchover")
    stage.look(source, "pre-switchover")
    stage.ask(source, "migrate-continue", {"state": "device"})
    stage.ask(source, "migrate-continue", {"state": "pre-switchover"})
    source.until("completed")
    destination.until("completed")
    # Whether a second pass is needed is a matter of time.
    stage.events(source, destination, without=("MIGRATION_PASS",))


def cancel_held(stage):
    """Taken back while pause-before-switchover holds it."""
    source, _ = stage.pair("pause-before-switchover", **{"max-bandwidth": 0, "downtime-limit": 2000})
    source.do("migrate", {"uri": f"unix:{stage.address()}"})
    source.until("pre-switchover")
    stage.ask(source, "migrate_cancel")
    source.until("cancelled")
    stage.loop.until(lambda: source.do("query-status")["running"], 30, "the guest's next step")
    stage.events(source, without=("MIGRATION_PASS",))


def recovery(stage):
    source, destination = into_postcopy(stage, lambda source: None)
    stage.loop.listen(0.4)
    stage.ask(source, "migrate-pause")
    source.until("postcopy-paused")
    destination.until("postcopy-paused")
    stage.look(source, "postcopy-paused")
    stage.look(destination, "postcopy-paused")
    stage.ask(source, "migrate-pause", None, "again")
    stage.ask(source, "migrate-recover", {"uri": "tcp:127.0.0.1:0"})
    stage.ask(source, "migrate", {"uri": "tcp:127.0.0.1:1"}, "without resume")
    again = f"unix:{stage.address()}2"
    stage.ask(destination, "migrate-recover", {"uri": again})
    stage.ask(destination, "migrate-recover", {"uri": again}, "again")
    stage.look(destination, "waits again")
    source.do("migrate", {"uri": again, "resume": True})
    source.until("postcopy-active", "completed")
    destination.until("postcopy-active", "completed")
    out_of_postcopy(stage, source, destination)
    stage.events(source, destination, without=("MIGRATION_PASS",))


def into_a_file(stage):
    """A guest that is stopped goes into a file."""
    source = stage.start("source")
    source.do("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    source.do("cont")
    source.do("stop")
    stage.ask(source, "migrate", {"uri": f"file:{source.directory}/guest"})
    source.until("completed")
    stage.loop.until(lambda: source.do("query-status")["status"] != "finish-migrate", 30, "the end")
    stage.look(source, "completed")
    stage.ask(source, "cont")
    stage.events(source)


ALL = (idle, waiting, precopy, multifd, postcopy, hybrid, cancel, failure, nobody, hold, cancel_held, recovery, into_a_file)
