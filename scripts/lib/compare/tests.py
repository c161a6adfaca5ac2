"""Tests of what needs no virtual machine: python3 -m unittest discover -s scripts/lib -p 'tests.py' -t scripts/lib"""

import unittest
import xml.dom.minidom

from . import picture, plan, table, timeline
from .measure import Run


def heartbeats(start, end, visits, rate):
    """A byte a millisecond, as the guest sends them; (arrivals, visits at the end)."""
    arrivals, line, now = [], b"", start
    while now < end:
        if not line:
            line = b"H %08x 00\n" % (round(visits + rate * (now - start)) % timeline.COUNTER)
        arrivals.append((now, line[:1]))
        line = line[1:]
        now += 0.001
    return arrivals, visits + rate * (now - start)


def moved():
    """A guest at 1000 visits/s whose move takes from 10 to 11 s, with 50 ms of blackout and nothing done until the end."""
    source, visits = heartbeats(8, 10, 500, 1000)
    brownout, _ = heartbeats(10.05, 11, visits, 0)
    after, _ = heartbeats(11, 13.5, visits, 1000)
    return source, brownout + after


def run(vmm, rep=0, failure=None, **figures):
    return Run(plan.Case("unix", "hot", "postcopy", rep, vmm), figures, failure=failure)


class Timeline(unittest.TestCase):
    def test_lines_split_between_source_and_destination_are_whole(self):
        arrivals = [(0.0, b"tail\nH 0000"), (1.0, b"0001 00\n"), (2.0, b"H")]
        self.assertEqual(list(timeline.lines(arrivals)), [(0.0, 1.0, "H 00000001 00")])

    def test_a_counter_that_wraps_goes_on(self):
        arrivals, _ = heartbeats(0, 3, timeline.COUNTER - 1500, 1000)
        self.assertAlmostEqual(timeline.Beats(arrivals).rate(0.5, 2.5), 1000, delta=2)

    def test_blackout_is_between_bytes(self):
        source, destination = moved()
        self.assertAlmostEqual(timeline.blackout(source, destination), 0.051, delta=0.002)

    def test_work_lost_is_what_was_not_done(self):
        source, destination = moved()
        before, lost, after = timeline.work(timeline.Beats(source + destination), 10, 11)
        self.assertAlmostEqual(before, 1000, delta=10)
        self.assertAlmostEqual(lost, 1.0, delta=0.03)
        self.assertAlmostEqual(after, 1.0, delta=0.02)

    def test_talk_is_taken_out_of_time_and_work(self):
        first, visits = heartbeats(8, 11.004, 0, 1000)
        talk = [(11.004 + i / 1000, b"S {}\n"[i : i + 1]) for i in range(4)] + [(11.5, b"\n")]
        first = first[: len(first) - len(first) % 14]
        after, _ = heartbeats(11.501, 14, visits, 1000)
        beats = timeline.Beats(first + talk + after)
        self.assertEqual(len(beats.talk), 1)
        _, lost, _ = timeline.work(beats.without_talk(), 10, 11)
        self.assertAlmostEqual(lost, 0, delta=0.02)
        _, lost, _ = timeline.work(beats, 10, 11)
        self.assertAlmostEqual(lost, 0.5, delta=0.03)

    def test_errors_are_seen(self):
        beats = timeline.Beats([(0.0, b"\nH 00000001 00\nH 00000002 03\n")])
        self.assertEqual(beats.errors, 3)

    def test_lines_read_at_once_are_one_beat(self):
        beats = timeline.Beats([(0.0, b"\nH 00000001 00\nH 00000002 00\n"), (1.0, b"H 00000005 00\n")])
        self.assertEqual((beats.times, beats.visits), ([0.0, 1.0], [2, 5]))

    def test_slow_visits_leave_out_the_fast_ones(self):
        said = timeline.slow_visits('S {"max_ns":900000,"hist":[[100,5000],[20480,98],[65536,1],[786432,1]]}')
        self.assertEqual(said["count"], 100)
        self.assertAlmostEqual(said["p50_us"], 20.48 * 17 / 16)
        self.assertAlmostEqual(said["p99_us"], 65.536 * 17 / 16)
        self.assertEqual(said["max_us"], 900)

    def test_the_blackout_is_drawn_as_a_drop_to_zero(self):
        source, destination = moved()
        stops = (source[-1][0], destination[0][0])
        spans = timeline.speeds(timeline.Beats(source + destination), 10, stops, 13)
        drops = [(start, end) for start, end, speed in spans if speed == 0 and start < 10]
        self.assertEqual(len(drops), 1)
        self.assertAlmostEqual(drops[0][1] - drops[0][0], 51, delta=2)


class Plan(unittest.TestCase):
    def test_who_goes_first_takes_turns(self):
        first, second = plan.batches(["unix"], ["hot"], ["postcopy"], 2, ["whimbrel", "qemu"])
        self.assertEqual([case.vmm for case in first], ["whimbrel", "qemu"])
        self.assertEqual([case.vmm for case in second], ["qemu", "whimbrel"])


class Table(unittest.TestCase):
    def test_ratios_are_taken_within_pairs(self):
        pairs = [(10, 20), (30, 10), (5, 10)]
        by_vmm = {
            "whimbrel": [run("whimbrel", rep, total_ms=ours) for rep, (ours, _) in enumerate(pairs)],
            "qemu": [run("qemu", rep, total_ms=theirs) for rep, (_, theirs) in enumerate(pairs)],
        }
        self.assertEqual(table.ratio(by_vmm, "total_ms"), "**0.50**")
        by_vmm["qemu"][0].failure = "it broke"
        self.assertEqual(table.ratios(by_vmm, "total_ms"), [3.0, 0.5])

    def test_failures_are_shown(self):
        runs = [run("whimbrel", total_ms=1.0, blackout_ms=1.0, byte_interval_ms=1.0, switched=True), run("qemu", failure="it broke")]
        text = table.markdown(runs, {"whimbrel": "w", "qemu": "q"}, plan.Settings(64, "32M", 1), 1)
        self.assertIn("0, 1 FAILED", text)
        self.assertIn("unix hot postcopy #1 qemu: it broke", text)
        self.assertTrue(table.as_csv(runs).splitlines()[2].endswith("it broke"))


class Picture(unittest.TestCase):
    def test_it_is_well_formed_even_if_all_failed(self):
        drawing = picture.draw([run("whimbrel", failure="a < b"), run("qemu", failure="x")], {"whimbrel": "w", "qemu": "q"})
        xml.dom.minidom.parseString(drawing)
        self.assertIn("failed", drawing)

    def test_short_spans_join_and_blackouts_stay(self):
        spans = [(0, 10, 1.0), (10, 30, 0.0), (30, 31, 0.5), (31, 40, 0.9)]
        self.assertEqual([it[:2] for it in picture.thin(spans, 6)], [(0, 10), (10, 30), (30, 40)])


if __name__ == "__main__":
    unittest.main()
