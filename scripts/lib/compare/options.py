"""The command line in, what to do out."""

import argparse
import re
from pathlib import Path

from . import plan


def arguments(description, out):
    """The options, with what is missing filled in; `out` is where results go if nothing else is said."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The exit status is 0 if every run succeeded, 1 if some failed (the table says which), 2 if none could start.",
    )  # fmt: skip
    some = lambda names: lambda text: chosen(names, text)
    add = parser.add_argument
    add("--quick", action="store_true", help="one repetition over a unix socket with 320M of RAM")
    add("--with-qemu", nargs="?", const="qemu-system-x86_64", metavar="PATH", help="run QEMU's migrations in between")
    add("--reps", type=at_least_one, metavar="N", help="repetitions of everything [3]")
    add("--modes", type=some(plan.MODES), default=list(plan.DEFAULT_MODES), metavar="LIST", help=names_help(plan.MODES, plan.DEFAULT_MODES))
    add("--workloads", type=some(plan.WORKLOADS), default=list(plan.WORKLOADS), metavar="LIST", help="of " + ",".join(plan.WORKLOADS))
    add("--transports", type=some(plan.TRANSPORTS), metavar="LIST", help=names_help(plan.TRANSPORTS, plan.DEFAULT_TRANSPORTS))
    add("--link-rate", type=bits_a_second, default="1gbit", metavar="RATE", help="of a link, in each direction [1gbit]")
    add("--memory", type=mebibytes, metavar="SIZE", help="guest RAM [1280M]")
    add("--ws", type=size, metavar="SIZE", help="the part of it that the guest visits [1G]")
    add("--sizes", type=listed(size), metavar="LIST", help=f"instead of both: working sets, each with {plan.BESIDE_MIB}M beside it; the first goes "
        "through everything, the others through one kind of move, to show what more memory costs")  # fmt: skip
    add("--cpus", type=listed(at_least_one), default=[1], metavar="LIST", help="numbers of virtual CPUs, the first for everything [1]")
    add("--out", type=Path, default=out, metavar="DIR", help="where the results go [target/compare]")
    add("--docs", action="store_true", help="also put the tables and the pictures into docs/performance.md, and what README says of them there")
    options = parser.parse_args()
    if options.sizes and (options.memory or options.ws):
        parser.error("--sizes says what --memory and --ws say: give one or the other")
    options.reps = options.reps or (1 if options.quick else 3)
    options.transports = options.transports or (["unix"] if options.quick else list(plan.DEFAULT_TRANSPORTS))
    one_size = (options.memory or (320 if options.quick else 1280), options.ws or ("256M" if options.quick else "1G"))
    options.sizes = [plan.sized(working_set) for working_set in options.sizes] if options.sizes else [one_size]
    return options


def names_help(names, default):
    return f"of {','.join(names)} [{','.join(default)}]"


def chosen(names, text):
    """A list of names with commas, each of them known."""
    words = text.split(",")
    for word in words:
        if word not in names:
            raise argparse.ArgumentTypeError(f"'{word}' is none of {', '.join(names)}")
    return words


def listed(kind):
    """A parser of lists with commas, without anything twice."""
    return lambda text: list(dict.fromkeys(kind(word) for word in text.split(",")))


def at_least_one(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 on")
    return int(text)


def size(text):
    if not re.fullmatch(r"[1-9][0-9]*[KMG]", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 256M or 1G")
    return text


def mebibytes(text):
    if text.endswith("K"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size of M or G")
    return plan.mebibytes(size(text))


def bits_a_second(text):
    """A rate as tc writes it, such as 1gbit."""
    if not re.fullmatch(r"[1-9][0-9]*[kmg]bit", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a rate such as 100mbit or 1gbit")
    return int(text[:-4]) * {"k": 10**3, "m": 10**6, "g": 10**9}[text[-4]]
