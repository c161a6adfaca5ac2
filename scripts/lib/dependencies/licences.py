"""Which licences a crate is used under, by the SPDX expression in its Cargo.toml."""

import re

# Chosen first where there is a choice: Whimbrel's own licence, whose text is here anyway.
PREFERRED = ("Apache-2.0", "MIT")


class Unreadable(Exception):
    """An expression that is none."""


def chosen(expression):
    """The licences that are taken of an expression such as '(MIT OR Apache-2.0) AND Unicode-3.0', in order."""
    # Old crates write 'MIT/Apache-2.0' for OR.
    words = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    licences, rest = _either(words, expression)
    if rest:
        raise Unreadable(expression)
    return sorted(licences)


def _either(words, expression):
    best, words = _all(words, expression)
    while words[:1] == ["OR"]:
        other, words = _all(words[1:], expression)
        best = min(best, other, key=_rank)
    return best, words


def _all(words, expression):
    licences, words = _one(words, expression)
    while words[:1] == ["AND"]:
        more, words = _one(words[1:], expression)
        licences = licences | more
    return licences, words


def _one(words, expression):
    if words[:1] == ["("]:
        licences, words = _either(words[1:], expression)
        if words[:1] != [")"]:
            raise Unreadable(expression)
        return licences, words[1:]
    if not words or words[0] in (")", "AND", "OR", "WITH"):
        raise Unreadable(expression)
    if words[1:2] == ["WITH"] and len(words) > 2:
        return {f"{words[0]} WITH {words[2]}"}, words[3:]
    return {words[0]}, words[1:]


def _rank(licences):
    places = [PREFERRED.index(it) if it in PREFERRED else len(PREFERRED) for it in licences]
    return max(places), len(licences)
