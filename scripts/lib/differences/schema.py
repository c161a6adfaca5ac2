"""QEMU's own description (query-qmp-schema), made flat: a line for each member, with its type.

`channels?[].addr.host?` is an argument `channels`, which may be left out, an array of objects whose member `addr` may have a `host`. Members
that belong to one variant of an object may be left out.
"""

import re

# Beside the commands that Whimbrel has: whatever is about migrations.
AREA = re.compile(
    r"migrat|^snapshot-|yank|dirty-(rate|limit)|announce|fdset|^(add|remove)-fd$|^(get|close)fd$|colo|^xen-(save|load|colo)|^(query-)?balloon$|^job-|^query-jobs$"
)
EVENTS = re.compile(r"MIGRATION|^(STOP|RESUME|RESET|SHUTDOWN|POWERDOWN|BALLOON_CHANGE|JOB_STATUS_CHANGE|UNPLUG_PRIMARY|COLO_EXIT)$")
# What says nothing about a machine's state.
DEEP = {"format-specific", "backing-image"}


def flat(schema, commands, events=()):
    """The part of a schema that is about migrations, and these commands and events."""
    types = {entry["name"]: entry for entry in schema}
    record = {"commands": {}, "events": {}}
    for name, entry in sorted(types.items()):
        if entry["meta-type"] == "command" and (AREA.search(name) or name in commands):
            one = {"takes": members(types, entry["arg-type"]), "returns": value(types, entry["ret-type"])}
            if entry.get("allow-oob"):
                one["out-of-band"] = True
            record["commands"][name] = one
        elif entry["meta-type"] == "event" and (EVENTS.search(name) or name in events):
            record["events"][name] = members(types, entry["arg-type"])
    return record


def members(types, name):
    """The members of an object by their paths."""
    found = {}
    _object(types, name, "", found, ())
    return found


def value(types, name):
    """What a command returns: members by their paths, or the one type that it is."""
    found = {}
    _type(types, name, "", found, ())
    return found


def _object(types, name, at, found, within, optional=False):
    entry = types[name]
    for member in entry["members"]:
        mark = "?" if "default" in member or optional else ""
        path = f"{at}.{member['name']}{mark}" if at else member["name"] + mark
        if member["name"] in DEEP:
            found[path] = "object"
        else:
            _type(types, member["type"], path, found, within + (name,))
    for variant in entry.get("variants", []):
        if variant["type"] not in within:
            _object(types, variant["type"], at, found, within + (name,), optional=True)


def _type(types, name, at, found, within):
    entry = types[name]
    kind = entry["meta-type"]
    if kind == "array":
        _type(types, entry["element-type"], at + "[]", found, within)
    elif kind == "object" and name in within:
        found[at] = "object"
    elif kind == "object":
        if at:
            found.setdefault(at, "object")
        _object(types, name, at, found, within)
    else:
        # Two variants may have a member of one name.
        found[at] = "/".join(sorted({*found.get(at, "").split("/"), _word(types, entry)} - {""}))


def _word(types, entry):
    kind = entry["meta-type"]
    if kind == "enum":
        # QEMU before 6.0 has `values`.
        return "|".join(sorted(member["name"] for member in entry.get("members", [])) or sorted(entry["values"]))
    if kind == "alternate":
        return "/".join(sorted(_word(types, types[member["type"]]) for member in entry["members"]))
    if kind == "builtin":
        return entry["json-type"]
    return "object"
