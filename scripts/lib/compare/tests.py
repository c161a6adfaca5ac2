"""Tests of what needs no virtual machine: python3 -m unittest discover -s scripts/lib -p 'tests.py' -t scripts/lib"""

import argparse
import re
import unittest
import xml.dom.minidom
from unittest import mock

import host

from . import goals, latency, link, mode, options, picture, plan, readme, table, timeline, vmm
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


SMALL = plan.Settings(64, "32M", 1)


def run(vmm, rep=0, failure=None, kind=("unix", "hot", "postcopy"), size=SMALL, **figures):
    return Run(plan.Case(*kind, size, rep, vmm), figures, failure=failure)


def choice(sizes=((64, "32M"),), cpus=(1,), transports=("unix",), workloads=("hot",), modes=("postcopy",), reps=1):
    return plan.Choice(list(sizes), list(cpus), list(transports), list(workloads), list(modes), reps)


MIB = 1 << 20
PAGES = 768 * 256


def account(statuses=("setup", "active", "completed"), before=512, after=0, there=None, **ram):
    """What both sides told of a guest of 768 MiB, of which it has written 512, that sent so many MiB before and after the switch."""
    sent = {"normal": (before + after) * 256, "duplicate": 256 * 256, "total": 768 * MIB, "page-size": 4096}
    sent |= {"transferred": (before + after) * MIB, "postcopy-bytes": after * MIB, "postcopy-requests": after, "multifd-bytes": 0} | ram
    return mode.Account(statuses, there or statuses, sent, 512 * MIB)


SWITCHED = ("setup", "active", "device", "postcopy-device", "postcopy-active", "completed")


def goal(runs, beginning, chosen=None, cores=2):
    """(ours, QEMU's, ratio, met) of the one goal that begins so."""
    (row,) = [row for row in goals.rows(runs, chosen or choice(), cores) if row[0].startswith(beginning)]
    return tuple(row[2:])


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

    def test_the_slowest_visits_are_those_that_were_asked_for(self):
        buckets = [(20480, 90), (65536, 5), (786432, 3)]
        self.assertEqual(timeline.slowest(buckets, 4), [(65536, 1), (786432, 3)])
        self.assertEqual(timeline.slowest(buckets, 1000), buckets)
        self.assertEqual(timeline.slowest(buckets, 0), [])

    def test_the_blackout_is_drawn_as_a_drop_to_zero(self):
        source, destination = moved()
        stops = (source[-1][0], destination[0][0])
        spans = timeline.speeds(timeline.Beats(source + destination), 10, stops, 13)
        drops = [(start, end) for start, end, speed in spans if speed == 0 and start < 10]
        self.assertEqual(len(drops), 1)
        self.assertAlmostEqual(drops[0][1] - drops[0][0], 51, delta=2)


class Plan(unittest.TestCase):
    def test_who_goes_first_takes_turns(self):
        first, second = choice(reps=2).batches(["whimbrel", "qemu"])
        self.assertEqual([case.vmm for case in first], ["whimbrel", "qemu"])
        self.assertEqual([case.vmm for case in second], ["qemu", "whimbrel"])

    def test_only_the_first_size_goes_through_everything(self):
        chosen = choice([(512, "256M"), (768, "512M")], [1, 2], ["tcp", "unix"], ["calm", "hot"], ["precopy", "postcopy"])
        cases = [case for batch in chosen.batches(["whimbrel"]) for case in batch]
        self.assertEqual([case.settings for case in cases[:8]], [plan.Settings(512, "256M", 1)] * 8)
        self.assertEqual([(*case.kind, case.settings) for case in cases[8:]], [
            ("tcp", "hot", "postcopy", plan.Settings(512, "256M", 2)),
            ("tcp", "hot", "postcopy", plan.Settings(768, "512M", 1)),
        ])  # fmt: skip

    def test_a_link_carries_no_precopy_that_cannot_end(self):
        chosen = choice(transports=["link"], workloads=["calm", "hot"], modes=["precopy", "postcopy", "multifd"])
        kinds = [(case.workload, case.mode) for batch in chosen.batches(["whimbrel"]) for case in batch]
        self.assertEqual(kinds, [("calm", "precopy"), ("calm", "postcopy"), ("calm", "multifd"), ("hot", "postcopy")])

    def test_sizes_that_do_not_fit_are_told(self):
        sizes = [plan.sized("1G"), plan.sized("8G")]
        self.assertEqual(sizes, [(1280, "1G"), (8448, "8G")])
        self.assertEqual(plan.fitting(sizes, plan.RESERVE_MIB + 2 * 8448), (sizes, []))
        fits, (sentence,) = plan.fitting(sizes, plan.RESERVE_MIB + 2 * 8448 - 1)
        self.assertEqual(fits, sizes[:1])
        self.assertIn("two machines of 8448 MiB", sentence)

    def test_guests_boot_beside_a_destination(self):
        self.assertEqual(plan.at_once(plan.RESERVE_MIB + 5 * 1280 + 1279, 1280), 4)


class Mode(unittest.TestCase):
    def test_a_first_pass_has_ended_when_each_page_has_been_sent_once_whatever_the_pass_counter_says(self):
        ram = {"total": 768 * MIB, "page-size": 4096, "normal": PAGES - 1001, "duplicate": 1000, "dirty-sync-count": 28}
        self.assertFalse(mode.pass_ended(ram))
        self.assertTrue(mode.pass_ended(ram | {"normal": PAGES - 1000, "dirty-sync-count": 1}))
        self.assertFalse(mode.pass_ended(None))

    def test_a_migration_of_its_mode_is_believed(self):
        self.assertIsNone(mode.wrong("precopy", account(before=700)))
        self.assertIsNone(mode.wrong("postcopy", account(SWITCHED, before=0, after=512)))
        for name in ("hybrid", "hybrid-asked"):
            self.assertIsNone(mode.wrong(name, account(SWITCHED, before=560, after=30)))
        over = {"multifd-bytes": 530 * MIB}
        self.assertIsNone(mode.wrong("multifd", account(before=540, **over)))
        self.assertIsNone(mode.wrong("hybrid-multifd", account(SWITCHED, before=540, after=2, **over)))

    def test_a_hybrid_that_switched_before_it_sent_anything_is_none(self):
        # What QEMU does when it is told to switch at MIGRATION_PASS 2.
        self.assertIn("0 MiB went before the switch, less than a pass", mode.wrong("hybrid", account(SWITCHED, before=0, after=512)))
        self.assertIn("511 MiB", mode.wrong("hybrid-asked", account(SWITCHED, before=511, after=12)))

    def test_a_hybrid_that_ended_in_precopy_or_went_on_for_two_passes_is_none(self):
        self.assertIn("ended in precopy", mode.wrong("hybrid", account()))
        self.assertIn("the destination never had", mode.wrong("hybrid", account(SWITCHED, after=1, there=("active", "completed"))))
        self.assertIn("more than one pass", mode.wrong("hybrid", account(SWITCHED, before=1024, after=3)))
        self.assertIn("nothing was left", mode.wrong("hybrid", account(SWITCHED, before=520)))

    def test_a_postcopy_at_once_sends_about_nothing_before(self):
        self.assertIsNone(mode.wrong("postcopy", account(SWITCHED, before=5, after=512)))
        self.assertIn("56 MiB went before the switch", mode.wrong("postcopy", account(SWITCHED, before=56, after=460)))

    def test_a_precopy_has_no_postcopy_and_sends_everything(self):
        self.assertIn("postcopy-device", mode.wrong("precopy", account(SWITCHED)))
        self.assertIn("the destination had", mode.wrong("precopy", account(there=SWITCHED)))
        self.assertIn("pages were asked for", mode.wrong("precopy", account(before=512, after=3)))
        self.assertIn("less than a pass", mode.wrong("precopy", account(before=300)))

    def test_a_mode_about_channels_used_them(self):
        self.assertIn("0 of 536,870,912 bytes", mode.wrong("multifd", account()))
        self.assertIn("multifd channels", mode.wrong("hybrid-multifd", account(SWITCHED, before=540, after=9)))

    def test_a_run_of_another_mode_is_thrown_out_and_measured_again(self):
        case, thrown_out, told = run("qemu").case, [], []
        wrong = [Run(case, wrong_mode="it ended in precopy"), Run(case, {"total_ms": 1.0})]
        asked = []
        good = mode.measured(lambda case, again: asked.append(again) or wrong[len(asked) - 1], case, thrown_out, told.append)
        self.assertEqual((good, thrown_out, told, asked), (wrong[1], wrong[:1], wrong, [False, True]))

    def test_a_case_that_is_never_of_its_mode_fails_after_some_tries(self):
        case, thrown_out = run("qemu").case, []
        last = mode.measured(lambda case, again: Run(case, {"total_ms": 1.0}, wrong_mode="it ended in precopy"), case, thrown_out, lambda run: None)
        self.assertEqual((len(thrown_out), last.figures), (mode.TRIES, {}))
        self.assertIn("none of 4 migrations was of its mode; the last: it ended in precopy", last.failure)

    def test_qemu_gets_capabilities_of_its_mode_only(self):
        qemu = vmm.Qemu("qemu", "guest")
        self.assertEqual(qemu.capabilities("precopy"), ("events",))
        self.assertEqual(qemu.capabilities("hybrid"), ("events", "postcopy-ram", "postcopy-preempt"))
        self.assertEqual(qemu.capabilities("hybrid-multifd"), ("events", "multifd", "postcopy-ram", "postcopy-preempt"))
        self.assertEqual(qemu.parameters("precopy"), {"max-bandwidth": 100 << 30})
        for name in plan.AFTER_A_PASS:
            self.assertEqual(qemu.parameters(name)["avail-switchover-bandwidth"] * qemu.parameters(name)["downtime-limit"], 1_000_000)

    def test_a_qemu_without_a_parameter_is_not_asked_for_it(self):
        self.assertEqual(vmm.settable(vmm.NEVER_FITS, {"downtime-limit": 300}), {"downtime-limit": 1})
        self.assertEqual(vmm.settable(vmm.NEVER_FITS, {"downtime-limit": 300, "avail-switchover-bandwidth": 0}), vmm.NEVER_FITS)
        self.assertEqual(vmm.settable({"x-postcopy-after": 1}, {}), {"x-postcopy-after": 1}, "what a mode rests on is asked for, and refused")

    def test_whimbrel_switches_by_itself_unless_the_mode_is_about_asking(self):
        whimbrel = vmm.Whimbrel("whimbrel")
        self.assertEqual([whimbrel.parameters(name).get("x-postcopy-after") for name in plan.MODES], [None, 0, 1, None, None, None, 1])
        self.assertEqual([name for name in plan.MODES if not whimbrel.switches_by_itself(name)], ["hybrid-asked"])


class Host(unittest.TestCase):
    CPUINFO = "processor\t: 0\nmodel name\t: AMD  EPYC\nflags\t\t: fpu svm hypervisor\n\nprocessor\t: 1\nmodel name\t: other\n"

    def test_figures_name_the_processor_the_kernel_and_the_kvm_they_are_from(self):
        self.assertEqual(host.sentence(self.CPUINFO, 2, "6.18", "kvm_pvm"), "AMD EPYC (2 processors, itself a virtual machine), Linux 6.18, guests by kvm_pvm")
        self.assertEqual(host.sentence("", 1, "6.1", "TCG"), "a processor without a name (1 processor), Linux 6.1, guests by TCG")

    def test_a_module_that_the_processor_cannot_use_runs_no_guest(self):
        self.assertEqual(host.kvm(["kvm_intel", "kvm_amd"], ["svm"]), "kvm_amd")
        self.assertEqual(host.kvm(["kvm_amd", "kvm_pvm"], []), "kvm_pvm")
        self.assertEqual(host.kvm(["kvm_intel"], []), "a KVM of unknown kind")

    def test_this_host_has_a_sentence(self):
        self.assertIn("Linux", host.described("TCG"))
        self.assertTrue(host.described("TCG").endswith("guests by TCG"))


class Readme(unittest.TestCase):
    def markdown(self, runs, thrown_out=(), **chosen):
        return readme.markdown(runs, list(thrown_out), {"whimbrel": "Whimbrel 1", "qemu": "QEMU 2"}, choice(**chosen), "some host", ["--reps", "1"])

    def test_the_command_has_no_path_of_this_machine(self):
        self.assertEqual(readme.command(["--with-qemu=/a/newest-qemu/qemu", "--docs", "--out", "/b", "--out=/c", "--reps", "5"]),
                         'scripts/compare_modes --with-qemu="$(scripts/newest-qemu)" --reps 5')  # fmt: skip
        self.assertEqual(readme.command(["--with-qemu=/a/qemu", "--quick"]), "scripts/compare_modes --with-qemu --quick")

    def test_both_tables_stand_there_with_what_they_are_of(self):
        runs = [run("whimbrel", total_ms=10.0, blackout_ms=2.0, asked_p50_us=50.0), run("qemu", total_ms=40.0, blackout_ms=4.0, asked_p50_us=100.0)]
        text = self.markdown(runs)
        self.assertIn("| hot, postcopy, unix | 2.0 / 4.0 | 0.50 | 10 / 40 | 0.25 | - / - | - |", text)
        self.assertIn("| hot, postcopy, unix | - / - | - | 50 / 100 | 0.50 | - / - | - | - / - | - |", text)
        self.assertIn("Whimbrel 1 and QEMU 2 ran in turn, source and destination on one machine: some host.", text)
        self.assertIn("2 migrations: none failed, no byte was wrong.", text)

    def test_failures_and_what_was_thrown_out_are_counted(self):
        runs = [run("whimbrel", failure="it broke"), run("qemu", total_ms=1.0)]
        self.assertIn("2 migrations: 1 failure, no byte was wrong; 1 more run thrown out", self.markdown(runs, [run("qemu")]))

    def test_a_precopy_alone_demands_no_pages(self):
        kind = ("unix", "hot", "precopy")
        self.assertNotIn("demanded", self.markdown([run("whimbrel", kind=kind, total_ms=1.0), run("qemu", kind=kind, total_ms=2.0)]))

    def test_a_hybrid_whose_demanded_pages_come_later_is_told(self):
        kind = ("tcp", "hot", "hybrid")
        runs = [run("whimbrel", kind=kind, asked_p50_us=300.0, asked_p99_us=400.0), run("qemu", kind=kind, asked_p50_us=200.0, asked_p99_us=900.0)]
        self.assertIn("later than QEMU's by their median in 1 of 1 rows (hot hybrid tcp).", self.markdown(runs))
        runs[0].figures["asked_p50_us"] = 100.0
        self.assertNotIn("later than QEMU's", self.markdown(runs))


class Options(unittest.TestCase):
    def test_lists_hold_nothing_twice(self):
        self.assertEqual(options.listed(options.at_least_one)("1,4,1,2"), [1, 4, 2])

    def test_rates_are_those_of_tc(self):
        self.assertEqual([options.bits_a_second(text) for text in ("1gbit", "250mbit", "64kbit")], [10**9, 25 * 10**7, 64_000])
        for wrong in ("1g", "gbit", "1gbps", "0mbit"):
            self.assertRaises(argparse.ArgumentTypeError, options.bits_a_second, wrong)


class Counters(unittest.TestCase):
    NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     111       1    0    0    0     0          0         0      111       1    0    0    0     0       0          0
link12:123456789     90    0    0    0     0          0         0      222       2    0    0    0     0       0          0
"""

    def test_what_a_link_brought_is_read(self):
        self.assertEqual(link.received(self.NET_DEV, "link12"), 123456789)
        self.assertRaises(ValueError, link.received, self.NET_DEV, "link1")

    def test_a_link_is_used_by_bytes_of_eight_bits(self):
        self.assertAlmostEqual(link.used((10.0, 1000), (12.0, 1000 + 225_000_000), 10**9), 90)
        self.assertIsNone(link.used((10.0, 0), (10.0, 5), 10**9))

    def test_what_a_link_lacks_is_said(self):
        with mock.patch.dict("os.environ", PATH="/nonexistent"), mock.patch("os.geteuid", return_value=0):
            self.assertIn("ip and tc and nsenter", link.Link.missing())
        with mock.patch("os.geteuid", return_value=1000):
            self.assertIn("only root", link.Link.missing())

    def test_the_memory_of_a_process_is_read(self):
        text = "Name:\tVmRSS\nVmPeak:\t  900 kB\nVmHWM:\t    3072 kB\nVmRSS:\t    2560 kB\n"
        self.assertEqual((vmm.status_mib(text, "VmHWM"), vmm.status_mib(text, "VmRSS")), (3.0, 2.5))


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
        text = table.markdown(runs, [], {"whimbrel": "w", "qemu": "q"}, choice(), {}, 10**9, "a host")
        self.assertNotIn("|  |", text, "no cell is empty")
        self.assertIn("0, 1 FAILED", text)
        self.assertIn("unix hot postcopy 32M 1 vCPU #1 qemu: it broke", text)
        self.assertTrue(table.as_csv(runs).splitlines()[2].endswith("it broke,"))
        self.assertIn("Host: a host.", text)

    def test_what_was_thrown_out_is_counted_and_shown(self):
        right = run("qemu", total_ms=1.0, byte_interval_ms=1.0)
        wrong = Run(right.case, {"total_ms": 9.0}, wrong_mode="it ended in precopy")
        text = table.markdown([right], [wrong], {"qemu": "q"}, choice(), {}, 10**9, "a host")
        self.assertIn("measured again: 1 run\n\n- unix hot postcopy 32M 1 vCPU #1 qemu: it ended in precopy", text)
        self.assertNotIn(" 9 ", text.split("###")[1])
        self.assertTrue(table.as_csv([right, wrong]).splitlines()[2].endswith(",it ended in precopy"))

    def test_what_was_skipped_is_shown(self):
        text = table.markdown([run("whimbrel", failure="x")], [], {"whimbrel": "w"}, choice(), {"no root": 1, "no memory": 4}, 10**9, "a host")
        self.assertIn("### Skipped: 5 runs\n\n- 1 run: no root\n- 4 runs: no memory", text)

    def test_other_sizes_have_a_table_of_their_own(self):
        chosen = choice(cpus=[1, 2])
        figures = {"byte_interval_ms": 1.0, "switched": True}
        runs = [run("whimbrel", requested_per_s=1000.0, **figures)]
        runs += [run("whimbrel", size=plan.Settings(64, "32M", 2), requested_per_s=3000.0, **figures)]
        text = table.markdown(runs, [], {"whimbrel": "w"}, chosen, {}, 10**9, "a host")
        first, second = text.split("### More vCPUs, more memory")
        self.assertEqual((first.count("| hot | postcopy | whimbrel | 1 |"), first.count("3,000")), (1, 0))
        self.assertIn("| 2 | 32M | whimbrel | 1 |", second)
        self.assertIn("3,000", second)


class Goals(unittest.TestCase):
    def test_a_ratio_is_met_up_to_its_limit(self):
        pairs = [(10, 20), (35, 100), (30, 90)]
        runs = [run(name, rep, total_ms=pair[i]) for rep, pair in enumerate(pairs) for i, name in enumerate(["whimbrel", "qemu"])]
        self.assertEqual(goal(runs, "postcopy at once, hot, unix"), ("30", "90", "0.35", "yes"))
        runs[2].figures["total_ms"] = 36
        self.assertEqual(goal(runs, "postcopy at once, hot, unix"), ("30", "90", "0.36", "no"))

    def test_without_qemu_no_ratio_is_known(self):
        self.assertEqual(goal([run("whimbrel", total_ms=1.0)], "postcopy at once, hot, unix"), ("1", "-", "-", "-"))
        self.assertEqual(goal([run("whimbrel", after=0.97)], "guest speed"), ("0.97", "-", "-", "yes"))
        self.assertEqual(goal([run("whimbrel", after=0.96)], "guest speed"), ("0.96", "-", "-", "no"))

    def test_a_row_is_met_if_all_its_parts_are(self):
        tcp = ("tcp", "hot", "postcopy")
        runs = [run("whimbrel", blackout_ms=1.0), run("qemu", blackout_ms=10.0)]
        self.assertEqual(goal(runs, "blackout"), ("1.0 / -", "10.0 / -", "0.10 / -", "-"))
        runs += [run("whimbrel", kind=tcp, blackout_ms=2.0), run("qemu", kind=tcp, blackout_ms=10.0)]
        self.assertEqual(goal(runs, "blackout"), ("1.0 / 2.0", "10.0 / 10.0", "0.10 / 0.20", "yes"))
        runs[0].figures["blackout_ms"] = 3.0
        self.assertEqual(goal(runs, "blackout")[3], "no")
        self.assertEqual(goal(runs[:2], "blackout")[3], "no")

    def test_a_link_must_be_used_besides(self):
        kind = ("link", "hot", "postcopy")
        runs = [run("whimbrel", kind=kind, demand_p50_us=1.0, demand_p99_us=9.0, link_used_percent=92.0)]
        runs += [run("qemu", kind=kind, demand_p50_us=10.0, demand_p99_us=90.0, link_used_percent=96.0)]
        title = "demand page p50 / p99 us while"
        self.assertEqual(goal(runs, title), ("1 / 9 / 92.0%", "10 / 90 / 96.0%", "0.10 / 0.10 / 0.96", "yes"))
        runs[0].figures["link_used_percent"] = 89.9
        self.assertEqual(goal(runs, title)[3], "no")

    def test_a_failed_run_of_ours_misses_its_goal(self):
        runs = [run("whimbrel", total_ms=1.0), run("qemu", total_ms=10.0), run("whimbrel", 1, failure="it broke"), run("qemu", 1, total_ms=10.0)]
        self.assertEqual(goal(runs, "postcopy at once, hot, unix"), ("1", "10", "0.10", "no"))
        runs[2], runs[3] = run("whimbrel", 1, total_ms=1.0), run("qemu", 1, failure="it broke")
        self.assertEqual(goal(runs, "postcopy at once, hot, unix"), ("1", "10", "0.10", "yes"))

    def test_memory_is_that_of_the_worst_kind(self):
        limit = 40 + 64 * 0.001
        runs = [run("whimbrel", beyond_mib=limit), run("qemu", beyond_mib=20.0)]
        runs += [run("whimbrel", kind=("tcp", "hot", "postcopy"), beyond_mib=3.0), run("qemu", kind=("tcp", "hot", "postcopy"), beyond_mib=1.0)]
        self.assertEqual(goal(runs, "memory beyond"), ("40.1", "20.0", "2.00", "yes"))
        runs[0].figures["beyond_mib"] = limit + 0.01
        self.assertEqual(goal(runs, "memory beyond")[3], "no")

    def test_cost_is_flat_if_no_size_stands_out(self):
        chosen = choice([(320, "64M"), (384, "128M")])
        runs = [run("whimbrel", size=chosen.main, total_ms_per_gib=100.0, blackout_ms=2.0)]
        self.assertEqual(goal(runs, "cost", chosen)[3], "-")
        runs += [run("whimbrel", size=chosen.scaled[0], total_ms_per_gib=110.0, blackout_ms=3.0)]
        self.assertEqual(goal(runs, "cost", chosen), ("100 / 110; 2.0 / 3.0", "-", "-", "yes"))
        runs[1].figures["total_ms_per_gib"] = 111.0
        self.assertEqual(goal(runs, "cost", chosen)[3], "no")
        runs[1].figures |= {"total_ms_per_gib": 90.0, "blackout_ms": 3.1}
        self.assertEqual(goal(runs, "cost", chosen)[3], "no")

    def test_more_vcpus_ask_for_more_until_cores_are_out(self):
        chosen = choice(cpus=[1, 2, 4])
        sizes = [chosen.main, *chosen.scaled]
        runs = [run("whimbrel", size=size, requested_per_s=rate) for size, rate in zip(sizes, [100.0, 150.0, 140.0])]
        self.assertEqual(goal(runs, "vCPUs", chosen, cores=2), ("100 / 150 / 140", "-", "-", "yes"))
        self.assertEqual(goal(runs, "vCPUs", chosen, cores=4)[3], "no")
        self.assertEqual(goal(runs, "vCPUs", chosen, cores=1)[3], "-")

    def test_four_channels_are_held_against_one_of_the_same_vmm(self):
        one, four = (("tcp", "calm", mode) for mode in ("single", "multifd"))
        runs = [run(name, kind=one, total_ms=100.0) for name in ("whimbrel", "qemu")]
        runs += [run("whimbrel", kind=four, total_ms=90.0), run("qemu", kind=four, total_ms=120.0)]
        self.assertEqual(goal(runs, "precopy over tcp"), ("0.90", "1.20", "0.75", "yes"))
        runs[2].figures["total_ms"] = 101.0
        self.assertEqual(goal(runs, "precopy over tcp")[3], "no")

    def test_other_sizes_do_not_blur_the_first(self):
        chosen = choice(cpus=[1, 2])
        runs = [run("whimbrel", size=size, after=after) for size, after in zip([chosen.main, *chosen.scaled], [1.0, 0.5])]
        self.assertEqual(goal(runs, "guest speed", chosen)[0], "1.00")


class Picture(unittest.TestCase):
    def test_it_is_well_formed_even_if_all_failed(self):
        drawing = picture.draw([run("whimbrel", failure="a < b"), run("qemu", failure="x")], {"whimbrel": "w", "qemu": "q"})
        xml.dom.minidom.parseString(drawing)
        self.assertIn("failed", drawing)

    def test_no_bar_stands_on_a_logarithmic_axis_and_every_axis_says_its_unit(self):
        runs = [run(vmm, rep, blackout_ms=2.0, total_ms=300.0, lost_ms=1.0) for vmm in ("whimbrel", "qemu") for rep in (0, 1)]
        for some in runs:
            some.speeds = [(-100, 0, 1.0), (0, 2, 0.0), (2, 1000, 1.0)]
        drawing = picture.draw(runs, {"whimbrel": "w", "qemu": "q"})
        for title in ("ms since the command", "speed, % of undisturbed", "ms, logarithmic"):
            self.assertIn(title, drawing)
        beside = drawing[drawing.index(">Blackout<") :]
        self.assertNotIn("<rect", beside)
        # Each of two strips has a dot for each of four runs, and one for each median.
        self.assertEqual(beside.count("<circle"), 2 * (4 + 2))
        self.assertIn("Whimbrel 2.0", beside)

    def test_panels_leave_no_place_empty(self):
        curves = {("unix", "hot", f"mode {n}"): {"whimbrel": ([(20480, 1)], [(20480, 1)])} for n in range(5)}
        drawing = latency.panels(curves, {"whimbrel": "w"})
        right = [float(x) for x in re.findall(r'x2="([\d.]+)"', drawing)]
        # Five lines across and one upright end at the right edge of the last panel of either row.
        self.assertEqual(sum(abs(x - (picture.WIDTH - latency.RIGHT)) < 0.1 for x in right), 2 * (5 + 1))
        self.assertIn("wait for the page, logarithmic", drawing)

    def test_short_spans_join_and_blackouts_stay(self):
        spans = [(0, 10, 1.0), (10, 30, 0.0), (30, 31, 0.5), (31, 40, 0.9)]
        self.assertEqual([it[:2] for it in picture.thin(spans, 6)], [(0, 10), (10, 30), (30, 40)])

    def test_waits_of_all_repetitions_are_one_distribution(self):
        runs = [run("whimbrel", requested_pages=2), run("whimbrel", 1, requested_pages=9), run("whimbrel", 2, failure="x")]
        for some, waits in zip(runs, ([[20480, 3]], [[20480, 1], [40960, 4]], [[20480, 100]])):
            some.waits = waits
        merged = latency.merged(runs)
        self.assertEqual(merged, [(20480, 4), (40960, 4)])
        self.assertEqual(latency.merged(runs, asked_only=True), [(20480, 3), (40960, 4)])
        self.assertEqual(latency.cumulated(merged), [(20480, 0.0), (23040.0, 0.5), (46080.0, 1.0)])

    def test_the_waits_are_drawn_well_formed_whatever_there_is(self):
        waited = run("whimbrel", requested_pages=10)
        waited.waits = [[20480, 90], [1048576, 10]]
        precopy = [run("whimbrel", kind=("unix", "hot", "precopy"))]
        for runs in ([waited, run("qemu", requested_pages=0)], [run("whimbrel", failure="a < b")], precopy):
            xml.dom.minidom.parseString(latency.draw(runs, {"whimbrel": "w < 1", "qemu": "q"}))
        self.assertIn("No guest ran", latency.draw(precopy, {"whimbrel": "w"}))
        self.assertIn("qemu: no wait seen", latency.draw([waited, run("qemu", requested_pages=0)], {"whimbrel": "w", "qemu": "q"}))


if __name__ == "__main__":
    unittest.main()
