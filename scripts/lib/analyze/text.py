"""What was found, as people read it: made of the JSON, so that nothing is in one and not in the other."""

import json
import re

from .grammar import is_number

# How much of a long string is shown.
LONG = 64


def pretty(value):
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def clean(text):
    """What a terminal may be shown of what somebody else wrote."""
    return re.sub("[\0-\x1f\x7f-\x9f]", "?", text)


def plain(value):
    """A single value. Large numbers in both styles, long strings cut."""
    if isinstance(value, str):
        text = clean(value)
        return f"{text[:LONG]}... ({len(text)} characters)" if len(text) > 2 * LONG else text
    if is_number(value) and value > 9:
        return f"{value} ({value:#x})"
    return "-" if value is None else str(value)


def tally(value):
    pages = f", {value['pages']} pages" if isinstance(value["pages"], int) and value["pages"] else ""
    return f"{value['messages']} messages, {value['bytes']} bytes{pages}"


def kinds(pages):
    return "".join(f", {count} by '{clean(kind)}'" for kind, count in pages.items())


def title(state):
    undescribed = "" if state["described"] else ", not described"
    return (
        f"{plain(state['name'])} {state['instance']}, version {state['version']}, "
        f"{state['bytes']} bytes at byte {state['offset']}{undescribed}"
    )


def damage_lines(damage):
    for one in damage:
        place = f", in '{plain(one['message'])}' that begins at byte {one['begins']}" if one["message"] is not None else ""
        yield f"damage at byte {one['offset']}{place}: {plain(one['why'])}"


def summary(report):
    whole = "not whole" if report["damage"] else "whole"
    yield f"stream: {report['end'] - report['offset']} bytes from byte {report['offset']} on, {whole}"
    if report["behind"]:
        yield f"{report['behind']} bytes behind it are not its own"
    yield "RAM blocks:"
    for block in report["blocks"]:
        come = f"{block['pages']} pages from {block['guest-address']:#x} on, of which {block['come']} come"
        yield f"  {plain(block['name'])}: {come}{kinds(block['sent'])}"
    yield "messages:"
    for message in report["messages"]:
        name = f"message {message['number']}" if message["name"] is None else plain(message["name"])
        yield f"  {name}: {tally(message)}"
    yield "stages:"
    for stage in report["stages"]:
        yield f"  {plain(stage['stage'])}: {tally(stage)}{kinds(stage['pages'])}"
    yield "state:"
    for state in report["state"]:
        yield f"  {title(state)}"
    yield from damage_lines(report["damage"])


def field_lines(indent, name, value):
    if isinstance(value, dict):
        yield " " * indent + f"{name}:"
        for inner, item in value.items():
            yield from field_lines(indent + 2, clean(inner), item)
    elif isinstance(value, list) and value:
        for at, item in enumerate(value):
            yield from field_lines(indent, f"{name} {at}", item)
    else:
        yield " " * indent + f"{name}: {'none' if value == [] else plain(value)}"


def state_lines(states):
    for state in states:
        yield f"{title(state)}:"
        if isinstance(state["fields"], dict):
            for name, value in state["fields"].items():
                yield from field_lines(2, clean(name), value)
        else:
            yield "  " + plain(state["fields"])
