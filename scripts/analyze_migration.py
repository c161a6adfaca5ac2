#!/usr/bin/env python3
"""Takes a recorded migration apart: scripts/analyze_migration.py FILE

FILE is what `migrate "exec:cat > FILE"` or `migrate file:FILE` wrote. The format is read from the description in the stream, so a stream
of another version is understood as well. `whimbrel analyze` does the same; docs/analyze.md has the grammar. Python's own library is enough.
"""

import argparse
import json
import os
import re
import sys
from contextlib import closing

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))

from analyze.extract import Extract  # noqa: E402
from analyze.source import Input  # noqa: E402
from analyze.text import clean, damage_lines, pretty, state_lines, summary  # noqa: E402
from analyze.walk import Walk  # noqa: E402


def show_ram(input, extract, as_json):
    """Each run as it is read: there may be millions."""
    between = ""

    def as_object(offset, kind, blocks, runs):
        nonlocal between
        for block, first, count in runs:
            one = {"offset": offset, "kind": kind, "block": blocks[block].name, "first": first, "count": count}
            sys.stdout.write(f"{between}\n  {json.dumps(one, ensure_ascii=False)}")
            between = ","

    def as_line(offset, kind, blocks, runs):
        for block, first, count in runs:
            print(offset, clean(kind), clean(blocks[block].name), first, count)

    if as_json:
        sys.stdout.write('{"ram": [')
    walk = Walk(input, extract, as_object if as_json else as_line).run()
    if as_json:
        print(f'\n], "damage": {json.dumps(walk.damage, ensure_ascii=False)}}}')
    else:
        print("".join(f"{line}\n" for line in damage_lines(walk.damage)), end="")
    return walk


def show(arguments, input, extract):
    """The exit code: 0 if the stream is whole."""
    if arguments.dump == "ram":
        return 1 if show_ram(input, extract, arguments.json).damage else 0
    walk = Walk(input, extract).run()
    lines = None
    if arguments.dump == "desc":
        value = walk.grammar.description if walk.grammar else None
        sys.stdout.write(pretty(value))
    elif arguments.dump == "state":
        value = {"state": walk.state, "damage": walk.damage}
        lines = [*state_lines(walk.state), *damage_lines(walk.damage)]
    else:
        value = walk.json()
        lines = summary(value)
    if lines is not None:
        sys.stdout.write(pretty(value) if arguments.json else "".join(f"{line}\n" for line in lines))
    return 1 if walk.damage else 0


def offset(text):
    if not re.fullmatch("0x[0-9a-fA-F]+|[0-9]+", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"'{text}' is not an offset; give bytes, such as 4096 or 0x1000")
    return int(text, 16 if text.startswith("0x") else 10)


def parse(words):
    parser = argparse.ArgumentParser(
        description="Takes a recorded migration apart, by what the stream says of itself.",
        epilog="Exit status: 0 if the stream is whole, 1 if it is damaged or was cut: what stands before the damage is shown.",
    )
    parser.add_argument("file", metavar="FILE", help="what 'migrate file:FILE' wrote, - for standard input; or FILE,offset=BYTES")
    parser.add_argument("--offset", type=offset, metavar="BYTES", help="where in the file the stream begins")
    parser.add_argument("-d", "--dump", choices=["state", "desc", "ram"], help="what to show instead of the summary")
    parser.add_argument("-x", "--extract", metavar="DIR", help="write RAM to DIR/NAME.ram, states to DIR/NAME.INSTANCE.state and .json")
    parser.add_argument("--json", action="store_true", help="as JSON")
    arguments = parser.parse_args(words)
    file, inside, place = arguments.file.rpartition(",offset=")
    if inside:
        arguments.file = file
        try:
            place = offset(place)
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
        arguments.offset = place if arguments.offset is None else arguments.offset
    return arguments


def main(words):
    arguments = parse(words)
    # Names are those of another host, whatever this one's are written in.
    sys.stdout.reconfigure(encoding="utf-8")
    try:
        with closing(Input(arguments.file, arguments.offset or 0)) as input:
            code = show(arguments, input, Extract(arguments.extract) if arguments.extract else None)
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # Whoever reads has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"analyze_migration: {error.filename or arguments.file}: {error.strerror or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
