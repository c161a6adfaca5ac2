"""What two VMMs said to the same, made comparable: names, types, order and words, without the figures."""

import difflib
import re
from collections import namedtuple

# `what` is unique and stands in the documentation; `qemu` and `here` are what each of the two said.
Difference = namedtuple("Difference", "what qemu here")

# Members whose value is a word of a fixed set.
WORDS = {"status", "mode", "type", "capability", "detect_zeroes", "enabled", "calc-time-unit", "target", "class"}


def shape(value, at=""):
    """Each member's path and type; of words also which they are."""
    if isinstance(value, dict):
        found = {at: "object"} if at else {}
        for name, inner in value.items():
            found |= shape(inner, f"{at}.{name}" if at else name)
        return found
    if isinstance(value, list) and value and all(isinstance(it, dict) and "capability" in it for it in value):
        return shape({it["capability"]: it["state"] for it in value}, at)
    if isinstance(value, list):
        found = {f"{at}[]": "array"}
        for inner in value:
            found |= shape(inner, f"{at}[]")
        return found
    name = at.rpartition(".")[2]
    if isinstance(value, str):
        return {at: f"'{value}'" if name in WORDS else "string"}
    kinds = {bool: "boolean", int: "number", float: "number", type(None): "null"}
    return {at: kinds[type(value)]}


def skeleton(text):
    """A text's lines without its figures."""
    return [_plain(line.rstrip("\r")) for line in text.split("\n") if line.strip()]


def _plain(line):
    line = re.sub(r"(?<![\w-])[\d.]+ ([KMGT]iB|B)\b", "SIZE", line)
    line = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID", line)
    line = re.sub(r"(?<!\w)(?:/[\w.-]+)+", "PATH", line)
    line = re.sub(r"(?<![\w])-?\d+(\.\d+)?", "N", line)
    # In columns there is more room before what is short.
    return re.sub(r" +N", " N", line)


def event(name, data):
    """An event as one word."""
    if name == "MIGRATION":
        return data["status"]
    if name == "MIGRATION_PASS":
        return f"PASS {min(data['pass'], 2)}" + ("+" if data["pass"] >= 2 else "")
    return name


def sequence(events):
    """Events in their order, repetitions told once."""
    words = [event(name, data) for name, data in events]
    return [word for at, word in enumerate(words) if at == 0 or words[at - 1] != word]


def answer(value):
    """What a command was answered with."""
    if "error" in value:
        return ("error", value["error"]["class"], " ".join(skeleton(value["error"]["desc"])))
    if isinstance(value["return"], str):
        return ("text", skeleton(value["return"]))
    return ("members", shape(value["return"]))


def differences(qemu, here):
    """The differences of two transcripts: dictionaries of moments, each an `answer` or ('events', [...])."""
    found = []
    for moment in [*qemu, *(it for it in here if it not in qemu)]:
        one, other = qemu.get(moment), here.get(moment)
        if one is None or other is None:
            found.append(Difference(f"{moment}: not reached", told(one), told(other)))
        elif one[0] != other[0] or one[0] == "error":
            if one != other:
                found.append(Difference(moment, told(one), told(other)))
        elif one[0] == "members":
            found += _members(moment, one[1], other[1])
        else:
            found += _lines(moment, one[1], other[1])
    return found


def told(said):
    """For people."""
    if said is None:
        return "nothing"
    if said[0] == "error":
        return f"{said[1]}: {said[2]}"
    return f"{len(said[1])} {said[0]}" if said[1] else "{}"


def _members(moment, qemu, here):
    for path in qemu:
        if path not in here:
            yield Difference(f"{moment} -{path}", qemu[path], "absent")
        elif here[path] != qemu[path]:
            yield Difference(f"{moment} {path}", qemu[path], here[path])
    for path in here:
        if path not in qemu:
            yield Difference(f"{moment} +{path}", "absent", here[path])


def _lines(moment, qemu, here):
    matcher = difflib.SequenceMatcher(None, qemu, here, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind != "equal":
            for line in qemu[a:b]:
                yield Difference(f"{moment} -{_one(line)}", f"{line!r} after {_before(qemu, a)}", "absent")
            for line in here[c:d]:
                yield Difference(f"{moment} +{_one(line)}", "absent", f"{line!r} after {_before(here, c)}")


def _before(lines, at):
    return repr(lines[at - 1].strip()) if at else "nothing"


def _one(line):
    """A line for the documentation: what is between words is one space."""
    return " ".join(line.split()).replace("|", "/")
