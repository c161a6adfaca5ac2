"""What the bytes say: bytes and their times in, figures out. No input or output, no clock.

A heartbeat line `H VVVVVVVV EE` leaves the guest a byte a millisecond, and says how many visits there were when its
first byte left. So bytes tell when the guest was still, to about a millisecond, and lines how fast it was.
"""

import json
import statistics
from bisect import bisect_left, bisect_right

COUNTER = 1 << 32
# A visit slower than this had to wait for a page; one to a page that is there takes well under a microsecond.
SLOW_NS = 20_000


def lines(arrivals):
    """(time of the first byte, time of the last, line) of all whole lines. The first may be half a line, and is not told."""
    rest, began, seen = bytearray(), None, False
    for now, data in arrivals:
        for piece in data.splitlines(keepends=True):
            if not rest:
                began = now
            rest += piece
            if rest.endswith(b"\n"):
                if seen:
                    yield began, now, rest[:-1].decode(errors="replace")
                seen = True
                rest.clear()


class Beats:
    """How many visits the guest had made, and when: the heartbeats, in order."""

    def __init__(self, arrivals):
        self.times, self.visits = [], []
        self.errors = 0
        self.talk = []
        for began, ended, line in lines(arrivals):
            if line.startswith("H ") and len(line) == 13:
                self._beat(began, int(line[2:10], 16), int(line[11:13], 16))
            elif line.startswith("S "):
                self.talk.append((began, ended))

    def _beat(self, now, counter, errors):
        before = self.visits[-1] if self.visits else counter
        if self.times and now <= self.times[-1]:
            # Two lines read at once: the later one says all.
            self.times.pop(), self.visits.pop()
        self.times.append(now)
        self.visits.append(before + (counter - before) % COUNTER)
        self.errors = max(self.errors, errors)

    def at(self, when):
        """Visits at a time, between two beats in proportion. None outside of what was heard."""
        after = bisect_right(self.times, when)
        if not 0 < after < len(self.times):
            return None
        (t0, t1), (v0, v1) = self.times[after - 1 : after + 1], self.visits[after - 1 : after + 1]
        return v0 + (v1 - v0) * (when - t0) / (t1 - t0)

    def rate(self, start, end):
        """Visits a second in a span."""
        first, last = self.at(start), self.at(end)
        return None if first is None or last is None else (last - first) / (end - start)

    def undisturbed(self, command):
        """(visits at the command, visits a second in the second before it).

        From whole beats before it only: the line that is on its way at the command may be ended by the destination.
        """
        first, last = bisect_left(self.times, command - 1), bisect_right(self.times, command) - 1
        if last <= first:
            return None, None
        rate = (self.visits[last] - self.visits[first]) / (self.times[last] - self.times[first])
        return self.visits[last] + rate * (command - self.times[last]), rate or None

    def without_talk(self):
        """The same, as if the guest had not stood and answered: those spans are taken out of time and work."""
        quiet = Beats(())
        cut_time = cut_visits = 0
        talk = list(self.talk)
        for i, (now, visits) in enumerate(zip(self.times, self.visits)):
            if talk and now > talk[0][1]:
                # The whole way from the beat before the answer to the one after it.
                talk.pop(0)
                if i:
                    cut_time += now - self.times[i - 1]
                    cut_visits += visits - self.visits[i - 1]
                continue
            quiet.times.append(now - cut_time)
            quiet.visits.append(visits - cut_visits)
        quiet.errors = self.errors
        return quiet


def blackout(source, destination):
    """Seconds from the source's last byte to the destination's first."""
    return destination[0][0] - source[-1][0]


def byte_interval(arrivals, start, end):
    """The median time between two bytes in a span: what the blackout is accurate to."""
    times = [now for now, _ in arrivals if start <= now <= end]
    gaps = [b - a for a, b in zip(times, times[1:])]
    return statistics.median(gaps) if gaps else None


def work(beats, command, completed):
    """(rate before, guest work lost in s of undisturbed time, speed after / before).

    Lost is what is missing 2 s after the end; the speed after is that of the second of those two seconds, since every
    VMM's guest is slow in the first, while KVM builds its own tables anew.
    """
    first, before = beats.undisturbed(command)
    if not before:
        return None, None, None
    last = beats.at(completed + 2)
    lost = None if last is None else completed + 2 - command - (last - first) / before
    after = beats.rate(completed + 1, completed + 2)
    return before, lost, None if after is None else after / before


def slow_buckets(statistics_line):
    """(lower bound in ns, count) of the visits slower than 20 us, from the guest's own histogram."""
    return [(lower, count) for lower, count in json.loads(statistics_line[2:])["hist"] if lower >= SLOW_NS]


def slow_visits(statistics_line):
    """Count, p50, p99 and maximum, in us, of the visits slower than 20 us."""
    slow = slow_buckets(statistics_line)
    total = sum(count for _, count in slow)
    if not total:
        return {"count": 0, "p50_us": None, "p99_us": None, "max_us": None}
    return {
        "count": total,
        "p50_us": quantile(slow, total, 0.50) / 1000,
        "p99_us": quantile(slow, total, 0.99) / 1000,
        "max_us": json.loads(statistics_line[2:])["max_ns"] / 1000,
    }


def slowest(buckets, number):
    """So many of the slowest visits of a histogram, or all."""
    result = []
    for lower, count in reversed(buckets):
        taken = min(count, number)
        number -= taken
        if taken:
            result.insert(0, (lower, taken))
    return result


def quantile(buckets, total, share):
    """A quantile of a histogram of (lower bound, count) whose buckets are an eighth of their value wide at most."""
    seen = 0
    for lower, count in buckets:
        seen += count
        if seen >= share * total:
            return lower * (1 + 1 / 16)
    return buckets[-1][0]


def speeds(beats, command, stops, end):
    """(ms since the command, share of the undisturbed speed) for a picture, with the blackout as a drop to zero."""
    _, before = beats.undisturbed(command)
    if not before:
        return []
    result = []
    last, first = stops
    pairs = zip(zip(beats.times, beats.visits), zip(beats.times[1:], beats.visits[1:]))
    for (t0, v0), (t1, v1) in pairs:
        if t1 < command - 0.4 or t0 > end:
            continue
        if t0 <= last and t1 >= first and (moving := (t1 - t0) - (first - last)) > 0:
            speed = (v1 - v0) / moving / before
            spans = [(t0, last, speed), (last, first, 0.0), (first, t1, speed)]
        else:
            spans = [(t0, t1, (v1 - v0) / (t1 - t0) / before)]
        for start, stop, speed in spans:
            result.append(((start - command) * 1000, (stop - command) * 1000, speed))
    return result
