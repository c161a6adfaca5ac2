"""Tests of what the lab computes. None boots anything."""

import json
import lzma
import shlex
import shutil
import socket
import struct
import tempfile
import threading
import unittest
import unittest.mock
from pathlib import Path
from types import SimpleNamespace

from . import agent, boots, catalogue, channel, course, disk, docs, echo, frames, kernel, machine, native, network, table, tools
from .bench import Bench, Outcome
from .cpio import Archive
from .guest import MODES, Guest, Move, Plan
from .loads.devices import first_gap
from .progress import LabFailed
from .switch import Switch

A, B = frames.mac("52:54:00:00:00:0a"), frames.mac("52:54:00:00:00:0b")


def arp(sender_mac, sender, target, to=frames.BROADCAST, operation=1):
    return to + sender_mac + struct.pack(">HHHBBH", frames.ARP, 1, frames.IPV4, 6, 4, operation) + sender_mac + sender + bytes(6) + target


class Cpio(unittest.TestCase):
    def entries(self, data):
        """A reader of its own: path -> (mode, content), as the kernel would see it."""
        found, at = {}, 0
        while True:
            self.assertEqual(data[at : at + 6], b"070701")
            fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
            size, name_size = fields[6], fields[11]
            name = data[at + 110 : at + 110 + name_size - 1].decode()
            content = at + (110 + name_size + 3) // 4 * 4
            if name == "TRAILER!!!":
                return found
            self.assertNotIn(name, found)
            found[name] = (fields[1], data[content : content + size])
            at = content + (size + 3) // 4 * 4

    def test_what_is_written_can_be_read_and_folders_come_before_what_is_in_them(self):
        archive = Archive()
        archive.file("a/b/odd", b"12345", 0o755)
        archive.link("bin/sh", "busybox")
        archive.device("dev/console", 5, 1)
        found = self.entries(archive.bytes())
        self.assertEqual(list(found), ["a", "a/b", "a/b/odd", "bin", "bin/sh", "dev", "dev/console"])
        self.assertEqual(found["a/b/odd"], (0o100755, b"12345"))
        self.assertEqual(found["bin/sh"], (0o120777, b"busybox"))
        self.assertEqual(found["a"][0], 0o040755)

    def test_the_first_of_two_with_one_name_stays(self):
        archive = Archive()
        archive.file("x", b"first")
        archive.file("/x", b"second")
        self.assertEqual(self.entries(archive.bytes())["x"][1], b"first")


class Modules(unittest.TestCase):
    def kernel(self, folder, modules):
        root = Path(folder)
        (root / "boot").mkdir()
        (root / "boot" / "vmlinuz-6.1").touch()
        tree = root / "lib" / "modules" / "6.1"
        tree.mkdir(parents=True)
        (tree / "modules.builtin").write_text("kernel/fs/built_in.ko\n")
        for name, needed in modules.items():
            (tree / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0x")
        return kernel.Kernel(root)

    def test_each_module_comes_after_what_it_needs_and_once(self):
        with tempfile.TemporaryDirectory() as folder:
            made = self.kernel(folder, {"kvm": ["irqbypass"], "irqbypass": [], "kvm-amd": ["kvm", "ccp"], "ccp": []})
            names = [path.stem for path in made.modules(["kvm_amd", "built_in", "kvm"])]
            self.assertEqual(names, ["irqbypass", "kvm", "ccp", "kvm-amd"])

    def test_a_module_that_is_not_there_is_named(self):
        with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(LabFailed, "no module nothing"):
            self.kernel(folder, {}).modules(["nothing"])


class Frames(unittest.TestCase):
    def test_a_request_for_our_address_is_answered_and_no_other(self):
        asked = arp(A, frames.ipv4("10.0.0.1"), echo.ADDRESS)
        answer = frames.arp_answer(asked, echo.MAC, echo.ADDRESS)
        self.assertEqual((answer[:6], answer[6:12], answer[20:22]), (A, echo.MAC, b"\0\2"))
        self.assertEqual((answer[22:28], answer[28:32]), (echo.MAC, echo.ADDRESS))
        self.assertIsNone(frames.arp_answer(arp(A, frames.ipv4("10.0.0.1"), frames.ipv4("10.0.0.2")), echo.MAC, echo.ADDRESS))
        self.assertIsNone(frames.arp_answer(arp(A, frames.ipv4("10.0.0.1"), echo.ADDRESS, operation=2), echo.MAC, echo.ADDRESS))

    def test_checksums_are_right(self):
        request = frames.echo_request(A, B, frames.ipv4("10.0.0.1"), frames.ipv4("10.0.0.2"), 7, 9)
        for part in (request[14:34], request[34:]):
            words = struct.unpack(f">{len(part) // 2}H", part)
            total = sum(words)
            # RFC 1071: a sum over all, the checksum included, is all ones.
            self.assertEqual((total & 0xFFFF) + (total >> 16), 0xFFFF)

    def test_an_answer_is_told_from_a_request(self):
        request = frames.echo_request(A, B, frames.ipv4("10.0.0.1"), frames.ipv4("10.0.0.2"), 7, 9)
        self.assertIsNone(frames.echo_answer(request))
        self.assertEqual(frames.echo_answer(request[:34] + b"\0" + request[35:]), (7, 9))

    def test_announcements_have_their_names(self):
        own = frames.ipv4("10.0.0.1")
        self.assertEqual(frames.kind(arp(A, own, own)), "gratuitous ARP")
        self.assertEqual(frames.kind(arp(A, own, frames.ipv4("10.0.0.2"))), "ARP")
        self.assertEqual(frames.kind(frames.BROADCAST + A + b"\x80\x35" + bytes(46)), "RARP")
        self.assertEqual(frames.kind(B + A + b"\x88\xcc"), "ethertype 0x88cc")


    def test_a_rarp_with_a_fault_is_found_out(self):
        right = frames.BROADCAST + A + struct.pack(">HHHBBH", frames.RARP, 1, frames.IPV4, 6, 4, 3) + A + bytes(4) + A + bytes(4 + 18)
        self.assertEqual(frames.rarp_fault(right), "")
        for fault, frame in {
            "that is no broadcast": B + right[6:],
            "that is not for Ethernet and IPv4": right[:14] + b"\0\2" + right[16:],
            "that is no request": right[:20] + b"\0\1" + right[22:],
            "with a wrong address in it": right[:32] + B + right[38:],
            "of 42 bytes": right[:42],
        }.items():
            self.assertEqual(frames.rarp_fault(frame), fault)


class Switching(unittest.TestCase):
    def test_an_unknown_address_goes_everywhere_and_a_known_one_home(self):
        switch = Switch("abc")
        self.assertEqual(switch.forward(B + A + bytes(50), "a", 0), ["b", "c"])
        self.assertEqual(switch.forward(A + B + bytes(50), "b", 1), ["a"])
        self.assertEqual(switch.forward(B + A + bytes(50), "a", 2), ["b"])
        self.assertEqual(switch.forward(B + B + bytes(50), "b", 3), [], "home already")
        self.assertEqual((switch.floods, switch.moves), (1, []))

    def test_an_announcement_moves_an_address_and_is_named(self):
        switch = Switch("ab")
        switch.forward(frames.BROADCAST + A + b"\x08\0" + bytes(50), "a", 1)
        self.assertEqual(switch.forward(frames.BROADCAST + A + b"\x80\x35" + bytes(46), "b", 2.5), ["a"])
        self.assertEqual([(it.at, it.left, it.reached, it.by) for it in switch.moves], [(2.5, "a", "b", "RARP")])
        self.assertEqual(switch.place("52:54:00:00:00:0a"), "b")
        switch.forward(frames.BROADCAST + A + b"\x80\x35" + bytes(46), "b", 3)
        self.assertEqual([(it.at, it.port) for it in switch.announcements], [(2.5, "b"), (3, "b")], "also where it is known")
        self.assertEqual(len(switch.moves), 1)

    def test_stumps_and_groups_as_senders_teach_nothing(self):
        switch = Switch("ab")
        self.assertEqual(switch.forward(b"short", "a", 0), [])
        switch.forward(B + frames.BROADCAST + bytes(50), "a", 0)
        self.assertIsNone(switch.place("ff:ff:ff:ff:ff:ff"))


class Echo(unittest.TestCase):
    def station(self):
        station = echo.Station()
        station.begin("guest", "52:54:00:00:00:0a", "10.0.0.1", 0.0)
        return station, station.pinged["guest"]

    def test_gap_and_losses(self):
        station, echoes = self.station()
        for step in range(10):
            self.assertEqual(len(station.due(step * echo.EVERY + 1e-6)), 1)
            # Those in the middle get lost; the last is still on its way.
            if step not in (4, 5, 6, 9):
                echoes.answer(step, step * echo.EVERY + 0.001)
        figures = station.end("guest")
        self.assertEqual((figures["sent"], figures["answered"], figures["lost"]), (10, 6, 3))
        self.assertAlmostEqual(figures["gap"], 4 * echo.EVERY)
        self.assertAlmostEqual(figures["gap_at"], 3 * echo.EVERY + 0.001)

    def test_after_a_pause_there_is_no_burst(self):
        station, echoes = self.station()
        self.assertEqual(len(station.due(0.0)), 1)
        self.assertEqual(len(station.due(5.0)), 1)
        self.assertEqual(len(station.due(5.0)), 0)
        self.assertEqual(len(echoes.sent), 2)

    def test_sequence_numbers_wrap(self):
        _, echoes = self.station()
        echoes.sent = [0.0] * 65540
        echoes.answer(2, 1.0)
        self.assertEqual(list(echoes.answered), [65538])

    def test_nothing_answered_is_no_error_here(self):
        station, _ = self.station()
        station.due(0.0)
        self.assertEqual(station.end("guest")["gap"], None)


class NetworkProcess(unittest.TestCase):
    def test_frames_pass_from_port_to_port_and_moves_are_told(self):
        net = network.Network()
        a, b = net.socket_port("a"), net.socket_port("b")
        net.start()
        try:
            for end in (a, b):
                end.settimeout(10)
            a.send(B + A + bytes(50))
            self.assertEqual(b.recv(2000), B + A + bytes(50))
            b.send(frames.BROADCAST + A + b"\x80\x35" + bytes(46))
            a.recv(2000)
            self.assertEqual([(it.reached, it.by) for it in net.moves("52:54:00:00:00:0a")], [("b", "RARP")])
            b.send(arp(B, frames.ipv4("192.168.77.9"), echo.ADDRESS))
            self.assertEqual(b.recv(2000)[6:12], echo.MAC)
        finally:
            net.end()
            a.close()
            b.close()


class Connection:
    """Stands in for a socket: gives what it is told to give."""

    def __init__(self):
        self.ours, self.theirs = socket.socketpair()
        self.recv, self.sendall = self.theirs.recv, self.theirs.sendall

    def close(self):
        self.ours.close()
        self.theirs.close()


class Consoles(unittest.TestCase):
    def test_a_line_may_begin_on_one_host_and_end_on_the_next(self):
        console, first, second = channel.Console("guest"), Connection(), Connection()
        console.attach(first)
        first.ours.sendall(b"memory 1\r\nmem")
        console.line(lambda line: line == "memory 1", 5, "the first")
        console.attach(second)
        second.ours.sendall(b"ory 2\nmemory 3\n")
        console.line(lambda line: line == "memory 3", 5, "the last")
        self.assertEqual([line for _, line in console.lines()], ["memory 1", "memory 2", "memory 3"])
        first.close()
        second.close()

    def test_what_does_not_come_is_named_with_the_last_words(self):
        console, end = channel.Console("guest"), Connection()
        console.attach(end)
        end.ours.sendall(b"something else\n")
        console.line(lambda line: "else" in line, 5, "it")
        with self.assertRaisesRegex(LabFailed, "the end; guest last said 'something else'"):
            console.line(lambda line: line == "never", 0.05, "the end")
        end.close()


class QmpConversation(unittest.TestCase):
    def test_answers_find_their_question_and_events_are_kept(self):
        connection = Connection()

        def monitor():
            connection.ours.sendall(b'{"QMP": {}}\n')
            lines = connection.ours.makefile()
            for line in lines:
                asked = json.loads(line)
                if asked["execute"] == "refused":
                    answer = {"error": {"class": "GenericError", "desc": "not today"}, "id": asked["id"]}
                else:
                    connection.ours.sendall(b'{"event": "MIGRATION", "data": {"status": "active"}}\n')
                    answer = {"return": asked.get("arguments", {}), "id": asked["id"]}
                connection.ours.sendall(json.dumps(answer).encode() + b"\n")

        threading.Thread(target=monitor, daemon=True).start()
        qmp = channel.Qmp(connection, "the monitor")
        self.assertEqual(qmp.execute("set", max_bandwidth=1), {"max-bandwidth": 1})
        self.assertEqual(qmp.event("MIGRATION", 5, status="active")[1], "MIGRATION")
        with self.assertRaisesRegex(LabFailed, "refused 'refused': not today"):
            qmp.execute("refused")


class Greeting(unittest.TestCase):
    def test_only_who_knows_the_token_is_listened_to(self):
        board = agent.Switchboard()
        board.expect("a")
        try:
            for token, welcome in (("wrong", False), (board.token, True)):
                caller = agent.Line(socket.create_connection(("127.0.0.1", board.port)))
                caller.send("H", f"{token} a".encode())
                self.assertEqual(board.line("a", 5 if welcome else 0.2) is not None, welcome)
                caller.close()
        finally:
            board.close()


class Disks(unittest.TestCase):
    def test_records_are_counted_and_a_gap_is_named(self):
        lines = [f"record {number:023} \n" for number in range(4)]
        self.assertEqual(disk.count("".join(lines)), 4)
        with self.assertRaisesRegex(LabFailed, "record 1 on the disk"):
            disk.count(lines[0] + lines[2])


    def test_a_line_missing_on_the_console_is_named(self):
        self.assertIsNone(first_gap(["1", "2", "3"]))
        self.assertEqual(first_gap(["1", "2", "4", "5"]), "4")
        self.assertEqual(first_gap(["2"]), "2")

    def test_everything_that_is_missing_is_said_at_once(self):
        options = SimpleNamespace(action="test", native=False, cache=Path("/nowhere"))
        there = {"cargo", "cc", "ldd", "apt-get", "apt-cache", "dpkg-deb", "qemu-img", "debugfs"}
        with unittest.mock.patch.object(tools, "path", lambda program: program if program in there else None):
            with self.assertRaisesRegex(LabFailed, r"^qemu-system-x86_64, mkfs.ext4, e2fsck, dumpe2fs are missing: .*\(Debian: apt-get install e2fsprogs qemu-system-x86\)"):
                tools.check(options)
            options.action = "shell"
            with self.assertRaisesRegex(LabFailed, r"^qemu-system-x86_64 is missing: install it \(Debian: apt-get install qemu-system-x86\)"):
                tools.check(options)
        with unittest.mock.patch.object(tools, "path", lambda program: program if program != "cargo" else None):
            with self.assertRaisesRegex(LabFailed, r"^cargo is missing: install it \(Rust \(https://rustup.rs\)\)"):
                tools.check(options)
        with unittest.mock.patch.object(tools, "path", lambda program: program):
            tools.check(options)

    @unittest.skipUnless(shutil.which("qemu-img") and Path("/usr/sbin/mkfs.ext4").exists(), "qemu-utils and e2fsprogs are not installed")
    def test_records_are_read_through_a_backing_file(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            base = disk.make("raw", "base", folder)
            overlay = disk.make_overlay("image", "base", folder)
            # The file system of the backing file is clean, and nobody has written a record yet.
            self.assertEqual(disk.check("qcow2", "image", overlay, folder, {"base": base}), 0)
            with self.assertRaisesRegex(LabFailed, "qemu-img ended"):
                disk.check("qcow2", "image", overlay, folder)


class Guests(unittest.TestCase):
    def test_the_arguments_tell_guests_of_one_time_apart(self):
        one, two = (Plan("x", number, net=True).arguments() for number in (1, 2))
        self.assertIn("tap=tap1,mac=52:54:00:77:00:01", one)
        self.assertIn("tap=tap2,mac=52:54:00:77:00:02", two)

    def test_devices_are_there_that_the_plan_names(self):
        plain = Plan("x").arguments()
        for name in ("rng", "balloon"):
            self.assertNotIn(f"--{name}", plain)
            self.assertIn(f"--{name}", Plan("x", **{name: True}).arguments())

    def test_numbers_are_those_of_the_program_alone(self):
        guest = Guest.__new__(Guest)
        guest.console = channel.Console("guest")
        guest.console.lines = lambda: [(1.0, "memory 32"), (2.0, "memory: ERROR lost"), (3.0, "memory 64"), (4.0, "records 7"), (5.0, "memory")]
        self.assertEqual(guest.numbers("memory"), [(1.0, 32), (3.0, 64)])
        self.assertEqual(guest.complaints(), ["memory: ERROR lost"])


class Docs(unittest.TestCase):
    def test_the_table_replaces_the_one_before_and_nothing_else(self):
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "page.md"
            page.write_text(f"before\n{docs.BEGIN}\nold\n{docs.END}\nafter\n")
            for text in ("first", "second"):
                docs.write(text, "a run", page)
            self.assertEqual(page.read_text(), f"before\n{docs.BEGIN}\n\na run\n\nsecond\n\n{docs.END}\nafter\n")

    def test_a_page_without_marks_stays_as_it_is(self):
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "page.md"
            page.write_text("text\n")
            with self.assertRaisesRegex(LabFailed, "has no lines"):
                docs.write("table", "a run", page)
            self.assertEqual(page.read_text(), "text\n")

    def test_the_page_of_this_project_has_the_marks(self):
        self.assertIn(docs.END, docs.PAGE.read_text().partition(docs.BEGIN)[2])


class NativeHosts(unittest.TestCase):
    def test_a_machine_that_cannot_is_refused_with_a_reason(self):
        refused = {"neither svm nor vmx": ("flags : fpu svmx\n", True, True), "/dev/kvm": ("flags : svm\n", False, True), "as root": ("flags : vmx\n", True, False)}
        for named, able in refused.items():
            self.assertIn(named, native.unusable(*able))
        with unittest.mock.patch.object(native.shutil, "which", lambda tool: tool if tool != "ip" else None):
            self.assertIn("needs ip ", native.unusable("flags : fpu svm\n", True, True))

    def test_commands_run_in_the_namespace_as_they_stand(self):
        namespace = native.Namespace("a", Path("/run"))
        namespace.holder = SimpleNamespace(pid=42)
        order = native.InNamespace(None, "a", namespace).order("echo 'it is' $$ >x && exec y")
        words = shlex.split(order)
        self.assertEqual(words[:3], ["exec", "nsenter", "--net=/proc/42/ns/net"])
        self.assertEqual(words[3:], ["sh", "-c", "echo 'it is' $$ >x && exec y"])


class Catalogue(unittest.TestCase):
    def test_the_full_set_has_each_scenario_in_each_mode(self):
        cases = list(catalogue.full())
        for number in "01234567":
            self.assertEqual({case.mode for case in cases if case.covers({number}, set())}, set(MODES), number)

    def test_the_quick_set_moves_every_load_in_every_mode(self):
        cases = list(catalogue.quick())
        for number in "1234":
            self.assertEqual({case.mode for case in cases if case.covers({number}, set())}, set(MODES), number)

    def test_random_moments_come_again_with_their_seed(self):
        moments = [Bench(None, 0, "name", None, seed).random.random() for seed in (1, 1, 2)]
        self.assertEqual(moments[0], moments[1])
        self.assertNotEqual(moments[0], moments[2])


class FakeHosts:
    """Hosts in name only; those of the first set die when a case fails."""

    booted = 0

    def __init__(self, folder):
        FakeHosts.booted += 1
        self.number = FakeHosts.booted
        self.network = SimpleNamespace(traffic=lambda: {})

    def fault(self):
        return "host b: its kernel says 'Kernel panic'" if self.number == 1 else ""

    def description(self):
        return "hosts"

    def end(self):
        pass


class Courses(unittest.TestCase):
    def run_course(self, *cases):
        """The outcomes of cases, each a function of the bench, on fake hosts."""
        FakeHosts.booted = 0
        with tempfile.TemporaryDirectory() as folder, unittest.mock.patch.multiple(course, Emulated=FakeHosts, boot=lambda *_: None):
            options = SimpleNamespace(seed=1, cache=Path(folder), native=False, slots=1)
            cases = [catalogue.Case("1", "a case", "hybrid", run) for run in cases]
            made = course.Course(options, cases, SimpleNamespace(say=lambda _: None))
            return made, [outcome.failure for outcome in made.run()]

    def test_what_failed_because_a_host_died_is_begun_again_and_nothing_else(self):
        at = []

        def fails_first(bench):
            at.append(("fails", bench.hosts.number))
            if bench.hosts.number == 1:
                raise LabFailed("the host is gone")
            return []

        made, failures = self.run_course(lambda bench: at.append(("works", bench.hosts.number)) or [], fails_first)
        self.assertEqual(failures, [None, None])
        self.assertEqual(at, [("works", 1), ("fails", 1), ("fails", 2)])
        self.assertEqual(len(made.faults), 1)
        self.assertIn("Kernel panic", made.faults[0])

    def test_a_case_that_fails_on_hosts_that_live_has_failed(self):
        def fails(bench):
            raise LabFailed(f"wrong on set {bench.hosts.number}")

        made, failures = self.run_course(fails)
        self.assertEqual(failures, ["wrong on set 2"])
        self.assertEqual((len(made.faults), FakeHosts.booted), (1, 2))


class Machines(unittest.TestCase):
    def test_a_kernel_at_its_end_is_a_fault_of_the_host(self):
        with tempfile.TemporaryDirectory() as folder:
            it = machine.Machine("a", "192.168.77.11", None, Path(folder))
            it.process = SimpleNamespace(poll=lambda: None)
            it.hand = SimpleNamespace(check=lambda *_, **__: "")
            it.path("console").write_text("init: ready\n")
            self.assertEqual(it.fault(), "")
            it.path("console").write_text("init: ready\n[  2.1] Kernel panic - not syncing: Fatal exception\n")
            self.assertIn("Kernel panic - not syncing", it.fault())
            it.process = SimpleNamespace(poll=lambda: -11)
            self.assertIn("ended with status -11", it.fault())


class Table(unittest.TestCase):
    def outcomes(self):
        case = catalogue.Case("3", "ping", "hybrid", None)
        ends = (SimpleNamespace(last=7.0), SimpleNamespace(first=7.05))
        moves = [Move("hybrid", 2.0, 0.010, ends, 0.040, 2), Move("hybrid", 3.0, 0.012, (), 0.060, 1)]
        return [Outcome(case, moves, 9.0), Outcome(case, [], 1.0, "it broke")]

    def test_the_longest_of_several_moves_stands_there_and_losses_are_added(self):
        good, bad = self.outcomes()
        self.assertEqual(table.row(good), ["3", "ping", "hybrid", "2", "60 ms", "50 ms", "3.0 s", "12 ms", "3", "0"])
        self.assertEqual(table.row(bad), ["3", "ping", "hybrid", "-", "-", "-", "-", "-", "-", "FAILED"])

    def test_all_lines_are_of_one_length(self):
        self.assertEqual(len({len(line) for line in table.table(self.outcomes()).split("\n")}), 1)

    def test_the_verdict_is_counted_by_scripts_test(self):
        self.assertEqual(table.verdict(self.outcomes()), "test result: FAILED. 1 passed; 1 failed; 0 ignored")


class Boots(unittest.TestCase):
    def candidate(self, protocol="PVH", says="init runs"):
        return boots.Candidate("a kernel", "a package", "boot/k", protocol, says, "its init")

    def test_a_kernel_is_where_its_console_says(self):
        self.assertEqual(boots.reached(self.candidate(), "noise\ninit runs on 6.1\n"), 'its init ("init runs")')
        self.assertEqual(boots.reached(self.candidate(), "Kernel panic"), "")

    def test_a_refusal_stands_there_in_its_own_words_without_the_labs_path(self):
        refused = self.candidate("", "no PVH entry")
        self.assertEqual(boots.reached(refused, "whimbrel: kernel /tmp/kernel has no PVH entry note: build it\n"), "has no PVH entry note: build it")
        self.assertEqual(boots.reached(refused, "it runs"), "")

    def test_a_terminals_sequences_are_no_text(self):
        self.assertEqual(boots.plain(b"\x1b[1;37mMem\x1b[0mtest"), "Memtest")

    def test_the_elf_in_a_bzimage_is_found(self):
        packed = lzma.compress(b"\x7fELF and so on", format=lzma.FORMAT_XZ)
        image = bytearray(0x400)
        image[0x1F1] = 1
        struct.pack_into("<II", image, 0x248, 16, len(packed) + 4)
        self.assertEqual(boots.vmlinux(bytes(image) + bytes(16) + packed + b"size"), b"\x7fELF and so on")

    def test_the_page_of_kernels_has_its_marks(self):
        begin, end = boots.MARKS
        self.assertIn(end, boots.PAGE.read_text().partition(begin)[2])


if __name__ == "__main__":
    unittest.main()
