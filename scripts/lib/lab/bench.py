"""Where one case is worked on, and the run of many of them."""

import contextlib
import dataclasses
import queue
import random
import threading
import time
from dataclasses import dataclass

from .autopsy import autopsy, look_from_inside
from .guest import Guest, Plan
from .progress import LabFailed


@dataclass
class Outcome:
    """What came of a case."""

    case: object
    moves: list
    seconds: float
    failure: str = None


class Bench:
    """What a scenario may use."""

    def __init__(self, hosts, number, name, folder, seed):
        self.hosts = hosts
        self.number = number
        self.name = name
        self.folder = folder
        self.random = random.Random(f"{seed} {name}")
        self._guests = []
        self._shared = []

    def plan(self, **wishes):
        """A guest's plan, with what is this bench's own and the hosts' already in it."""
        plan = Plan(f"{self.name}-{len(self._guests)}", self.number, boot=self.hosts.boot, words=self.hosts.words)
        return dataclasses.replace(plan, **wishes)

    def guest(self, plan, *more):
        """Starts a guest on host a."""
        guest = Guest(plan, self.hosts.a, *more)
        self._guests.append(guest)
        return guest

    def share(self, content, name):
        """Puts a file on the shared storage for as long as this case lasts, and returns its path on the hosts."""
        self._shared.append(name)
        return self.hosts.put_shared(content, name)

    def accept(self, guest):
        """Fails if the guest or its kernel complained of something."""
        if complaints := guest.complaints():
            raise LabFailed(f"guest {guest.plan.name} complains: {complaints[0]}")

    def pause(self, seconds):
        """Lets time pass: for what the scenario measures, not for something to happen."""
        time.sleep(seconds)

    def now(self):
        """Seconds on the lab's clock."""
        return time.monotonic()

    def look_into(self):
        """Writes down what can be seen of the guests after a failure."""
        for guest in self._guests:
            text = "".join(autopsy(process) for process in guest.processes)
            if text:
                look_from_inside(guest)
                (self.folder / f"{guest.plan.name}.autopsy").write_text(text)

    def end(self):
        """Ends the guests and writes down what they said."""
        for guest in self._guests:
            guest.end()
        for name in self._shared:
            self.hosts.remove_shared(name)
        for guest in self._guests:
            (self.folder / f"{guest.plan.name}.console").write_text(guest.console.text())
            if guest.plan.console:
                (self.folder / f"{guest.plan.name}.hvc").write_text(guest.hvc.text())
            for process in guest.processes:
                with open(self.folder / f"{guest.plan.name}.whimbrel", "ab") as log:
                    log.write(f"# host {process.host.name}: {process.command}\n".encode() + process.said)
                    log.write(f"# ended with status {process.job.status}\n".encode())


def run(cases, hosts, slots, seed, folder, tell):
    """Works on the cases, a dictionary by number, `slots` at a time, and yields numbers and outcomes as they come. Nothing new is
    begun once nobody wants more of them."""
    todo, done = queue.SimpleQueue(), queue.SimpleQueue()
    for number, case in cases.items():
        todo.put((number, case))

    def work(slot):
        while True:
            try:
                number, case = todo.get_nowait()
            except queue.Empty:
                return
            tell(f"begins: {label(case)}")
            bench = Bench(hosts, slot, f"{number:02}-s{case.scenario.replace('+', '')}-{case.mode}", folder, seed)
            done.put((number, _one(case, bench)))

    for slot in range(slots):
        # Daemons: an interrupted lab does not wait for them.
        threading.Thread(target=work, args=(slot,), daemon=True).start()
    try:
        for _ in cases:
            yield done.get()
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                todo.get_nowait()


def label(case):
    """A case in half a line."""
    return f"scenario {case.scenario}, {case.title}, {case.mode}"


def _one(case, bench):
    began = time.monotonic()
    moves, failure = [], None
    try:
        moves = case.run(bench)
    except LabFailed as why:
        failure = str(why)
    except Exception as error:
        # A fault of the lab's own costs one case, not all that come after it.
        failure = f"the lab itself: {type(error).__name__}: {error}"
    finally:
        try:
            if failure:
                bench.look_into()
            bench.end()
        except (LabFailed, OSError) as why:
            failure = failure or str(why)
    return Outcome(case, moves, time.monotonic() - began, failure)
