"""One migration, measured from outside: boot, settle, move, then look at the guest."""

import mmap
import time
import traceback
from dataclasses import dataclass, field

from . import mode, timeline
from .channels import RunFailed, RunSkipped
from .link import used
from .plan import AFTER_A_PASS, PRECOPY
from .vmm import Vm

# How long the guest runs undisturbed before the move; the last second is what its speed is compared with.
SETTLE = 1.6
# How long before the move the memory is set free that the destination will get.
RELEASE = 0.15
# Python does not name it.
MADV_POPULATE_WRITE = 23
# How long a migration may take, a link's time for the memory apart. One that does not converge is cancelled and told as failed.
LIMIT = 60
# How often a source is asked whether its first pass has ended, in s. QEMU looks at the answer's command each 50 ms.
POLL = 0.005
# How many times over a link may carry the memory.
PASSES = 4
# How long a guest may take to write a GiB of memory before its first visit.
FILL = 15


@dataclass
class Run:
    """A case and what came of it: figures, or the sentence that says why there are none."""

    case: object
    figures: dict = field(default_factory=dict)
    speeds: list = field(default_factory=list)
    # (lower bound in ns, count) of the visits that waited for a page.
    waits: list = field(default_factory=list)
    failure: str | None = None
    skipped: str | None = None
    # Why the migration was of another mode than the case's.
    wrong_mode: str | None = None


class Stage:
    """Boots sources ahead of time, and measures them one by one."""

    def __init__(self, loop, vmms, link):
        self.loop = loop
        self.vmms = {vmm.name: vmm for vmm in vmms}
        self.link = link
        self.sources = {}

    def boot(self, cases):
        """Boots the sources of some cases and stops each at its first visit. Those that fail say so when measured."""
        waiting = []
        for case in cases:
            try:
                source = self._start(case, incoming=False)
                self.sources[case] = source
                source.qmp.execute("cont")
                waiting.append(case)
            except (RunFailed, RunSkipped) as why:
                self._drop(case, why)
        for case in waiting:
            source = self.sources[case]
            try:
                source.serial.record("B whimbrel-guest", source.vmm.boot_seconds + FILL * case.settings.working_set_gib)
                source.qmp.execute("stop")
            except RunFailed as failure:
                self._drop(case, failure)

    def _start(self, case, incoming):
        return Vm(self.loop, self.vmms[case.vmm], case, incoming, self._link(case))

    def _link(self, case):
        return self.link if case.transport == "link" else None

    def _drop(self, case, why):
        source = self.sources.get(case)
        if isinstance(source, Vm):
            source.end()
        self.sources[case] = why

    def measure(self, case, again=False):
        """Moves the guest of a case that was booted, or boots it once more."""
        if again:
            self.boot([case])
        run = Run(case)
        source, destination = self.sources.pop(case), None
        try:
            if isinstance(source, Exception):
                raise source
            destination = self._start(case, incoming=True)
            Move(self.loop, run, source, destination, self._link(case)).measure()
        except RunFailed as failure:
            run.failure = str(failure)
        except RunSkipped as why:
            run.skipped = str(why)
        except Exception as error:  # A fault of ours, or an answer of a shape not known: the other runs go on.
            traceback.print_exc()
            run.failure = f"unexpected {type(error).__name__}: {error}"
        finally:
            for vm in (source, destination):
                if isinstance(vm, Vm):
                    vm.end()
        return run

    def end(self):
        """Ends the sources that were not measured."""
        for source in self.sources.values():
            if isinstance(source, Vm):
                source.end()
        self.sources.clear()


def touched(mebibytes):
    """Memory that has been written, to be closed just before a move. In huge pages, as both VMMs ask for.

    A virtual host may give free memory back to the host below within seconds. The next who gets it pays for that, ten
    times as much as for the page itself; so whoever came second in a pair would win by what the first has warmed.
    """
    memory = mmap.mmap(-1, mebibytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.madvise(MADV_POPULATE_WRITE)
    except OSError:
        # A kernel without huge pages, or older than 5.14.
        memory[:: mmap.PAGESIZE] = bytes(len(memory) // mmap.PAGESIZE)
    return memory


class Move:
    """The migration of one guest."""

    def __init__(self, loop, run, source, destination, link):
        self.loop = loop
        self.run = run
        self.case = run.case
        self.source = source
        self.destination = destination
        self.link = link
        self.limit = LIMIT
        if link:
            self.limit += PASSES * self.case.settings.working_set_gib * (8 << 30) / link.rate
        # When the destination's guest began to run before its memory was there, and when all was.
        self.began = self.ended = None

    def measure(self):
        """Fills in the run's figures."""
        uri = self._listen()
        warm = touched(self.case.settings.memory_mib)
        self.source.qmp.execute("cont")
        self.loop.listen(SETTLE - RELEASE)
        warm.close()
        self.loop.listen(RELEASE)
        self.source.serial.check()

        # What the guest uses of its RAM: all that the source has taken since it runs.
        backed = self.source.memory_mib("VmRSS") - self.source.own_mib
        cpu = self._cpu()
        self.command = time.monotonic()
        self.source.qmp.execute("migrate", uri=uri)
        self._switch()
        self._complete()
        cpu = self._cpu() - cpu
        memory = self._memory(backed)
        demand = self._slow_visits()
        self.loop.listen(max(0.0, self.completed + 2.3 + self._talk() - time.monotonic()))
        self._conclude(demand, cpu, memory, self._verify())

    def _listen(self):
        host = self.link.address if self.link else "127.0.0.1"
        where = f"unix:{self.destination.path('migration')}" if self.case.transport == "unix" else f"tcp:{host}:0"
        self.destination.qmp.execute("migrate-incoming", uri=where)
        if self.case.transport == "unix":
            return where
        address = self.destination.qmp.execute("query-migrate")["socket-address"][0]
        return f"tcp:{address['host']}:{address['port']}"

    def _cpu(self):
        return self.source.cpu_seconds() + self.destination.cpu_seconds()

    def _memory(self, backed):
        """The most that each process had, beyond the guest's RAM and beyond what is in use of it; and the worse of both."""
        most = {"source": self.source.memory_mib("VmHWM"), "destination": self.destination.memory_mib("VmHWM")}
        figures = {}
        for name, base in (("beyond", self.case.settings.memory_mib), ("beyond_used", backed)):
            sides = {side: max(0.0, mib - base) for side, mib in most.items()}
            figures |= {f"{name}_{side}_mib": mib for side, mib in sides.items()}
            figures[f"{name}_mib"] = max(sides.values())
        return figures

    def _await(self, happened, what, every=None):
        """Waits for an event of the move, or looks for it so often; a failure of either side ends the wait."""

        def watched():
            for vm in (self.source, self.destination):
                if vm.qmp.failed() or vm.qmp.ended:
                    raise RunFailed(self._failure(vm))
            return happened()

        try:
            return self.loop.until(watched, self.limit, what, every)
        except RunFailed:
            if not self.source.qmp.ended:
                self.source.qmp.attempt("migrate_cancel")
            raise

    def _failure(self, vm):
        said = {} if vm.qmp.ended else vm.qmp.execute("query-migrate")
        return f"{vm.name} failed: {said.get('error-desc') or vm.last_words()}"

    def _switch(self):
        """Turns QEMU's migration to postcopy as a user would, and starts the guest's histogram anew where it arrives."""
        if self.case.mode in PRECOPY:
            return
        if not self.source.vmm.switches_by_itself(self.case.mode):
            if self.case.mode in AFTER_A_PASS:
                self._await(self._pass_ended, "the end of the first pass", POLL)
            # Refused if the migration is over already: then it was a precopy, which the account of both sides tells.
            self.source.qmp.attempt("migrate-start-postcopy")
        # QEMU's serial port loses what comes before its state is loaded, so it is sent to both at their first sign of life.
        there = self.destination
        self._await(lambda: there.serial.arrivals or there.qmp.when("RESUME"), "a sign of life of the destination")
        self.began = self._reading()
        there.serial.send(b"r")

    def _pass_ended(self):
        """Whether the source has sent each page once, or is done altogether."""
        ended = self.source.qmp.when("MIGRATION", status="completed")
        return ended or mode.pass_ended(self.source.qmp.execute("query-migrate").get("ram"))

    def _complete(self):
        """Waits until both sides say that all is done, and the guest was heard."""
        sides = (self.source.qmp, self.destination.qmp)
        ends = lambda: [qmp.when("MIGRATION", status="completed") for qmp in sides]
        self.completed = max(self._await(lambda: all(ends()) and ends(), "the end of the migration"))
        self.ended = self._reading()
        self.loop.until(lambda: self.destination.serial.arrivals, 30, "the guest's first byte from the destination")

    def _reading(self):
        """The time, and the bytes that the link has brought to the destination."""
        return time.monotonic(), self.link.received(self.destination.process.pid) if self.link else 0

    def _slow_visits(self):
        if self.case.mode in PRECOPY:
            return {}
        start = len(self.destination.serial.text)
        self.destination.serial.send(b"s")
        line = self.destination.serial.record("S {", 30, start)
        self.run.waits = timeline.slow_buckets(line)
        return timeline.slow_visits(line)

    def _talk(self):
        return sum(end - start for start, end in self._beats().talk)

    def _verify(self):
        """Has the guest look at every byte; how many pages were wrong."""
        serial = self.destination.serial
        start = len(serial.text)
        serial.send(b"v")
        words = serial.record("V pages=", 120, start).split()
        return int(words[2].removeprefix("errors="))

    def _arrivals(self):
        return self.source.serial.arrivals + self.destination.serial.arrivals

    def _beats(self):
        start = self.command - SETTLE
        return timeline.Beats([it for it in self._arrivals() if it[0] >= start])

    def _postcopy(self, requested):
        """What happened between the guest's first sign of life on the destination and the end."""
        if not (self.began and self._switched()):
            return {}
        seconds = self.completed - self.began[0]
        return {
            "postcopy_ms": seconds * 1000,
            "requested_per_s": requested / seconds if requested is not None and seconds > 0 else None,
            "link_used_percent": used(self.began, self.ended, self.link.rate) if self.link else None,
        }

    def _asked(self, requested):
        """The slowest waits, as many as pages were asked for: visits to pages that are there already may take 30 us, too."""
        waits = timeline.slowest(self.run.waits, requested or 0)
        total = sum(count for _, count in waits)
        return {f"asked_{name}_us": timeline.quantile(waits, total, share) / 1000 for name, share in (("p50", 0.5), ("p99", 0.99)) if waits}

    def _switched(self):
        return mode.SWITCHED in self.source.qmp.statuses()

    def _conclude(self, demand, cpu, memory, errors):
        # Only now: QEMU says `completed` before it has reckoned its own times.
        said = self.source.qmp.execute("query-migrate")
        here = self.destination.qmp.execute("query-migrate")
        here_arrivals, there_arrivals = self.source.serial.arrivals, self.destination.serial.arrivals
        beats = self._beats()
        quiet = beats.without_talk()
        _, lost, after = timeline.work(quiet, self.command, self.completed)
        ram = said["ram"]
        account = mode.Account(self.source.qmp.statuses(), self.destination.qmp.statuses(), ram, self.case.settings.working_set_bytes)
        own = here.get("x-demand-pages", {})
        stops = (here_arrivals[-1][0], there_arrivals[0][0])
        interval = timeline.byte_interval(here_arrivals, self.command - 1, self.command)
        self.run.figures = {
            "total_ms": (self.completed - self.command) * 1000,
            "total_ms_per_gib": (self.completed - self.command) * 1000 / self.case.settings.working_set_gib,
            "own_total_ms": said.get("total-time"),
            "blackout_ms": timeline.blackout(here_arrivals, there_arrivals) * 1000,
            "byte_interval_ms": interval and interval * 1000,
            "own_downtime_ms": said.get("downtime"),
            "demand_count": demand.get("count"),
            "demand_p50_us": demand.get("p50_us"),
            "demand_p99_us": demand.get("p99_us"),
            "demand_max_us": demand.get("max_us"),
            **self._asked(ram.get("postcopy-requests")),
            "own_demand_p50_us": own and own["p50-ns"] / 1000 or None,
            "own_demand_p99_us": own and own["p99-ns"] / 1000 or None,
            "own_demand_max_us": own and own["max-ns"] / 1000 or None,
            "lost_ms": lost if lost is None else lost * 1000,
            "after": after,
            "cpu_s": cpu,
            "cpu_s_per_gib": cpu / self.case.settings.working_set_gib,
            **memory,
            "errors": max(errors, beats.errors),
            "switched": self._switched(),
            "times_sent": account.times_sent,
            "before_switch_mib": account.before / (1 << 20),
            "after_switch_mib": ram["postcopy-bytes"] / (1 << 20),
            "multifd_mib": ram.get("multifd-bytes", 0) / (1 << 20),
            "statuses": " ".join(account.source),
            "normal_pages": ram.get("normal"),
            "zero_pages": ram.get("duplicate"),
            "requested_pages": ram.get("postcopy-requests"),
            "transferred_mib": ram.get("transferred", 0) / (1 << 20),
            **self._postcopy(ram.get("postcopy-requests")),
        }
        self.run.wrong_mode = mode.wrong(self.case.mode, account)
        self.run.speeds = timeline.speeds(quiet, self.command, stops, self.completed + 2)
        if self.run.figures["errors"]:
            self.run.failure = f"the guest found {self.run.figures['errors']} damaged pages"
