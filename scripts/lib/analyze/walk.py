"""From message to message, to the end of the stream or to where it is damaged."""

import struct

from .grammar import Grammar, Nobody, Reader, Unusable, is_number
from .pages import Block, number
from .source import Body, Damage, Memory

# All that is known before the description has come.
HELLO, MAGIC, HEADER, DESCRIPTION = 40, b"WHIMBREL", struct.Struct("<HHI"), 3
# How many bytes are kept until then.
MOST_EARLY = 64 << 20

# What there is to say of the other kind of file.
MAPPED = (
    "the file has mapped RAM: its pages and states stand elsewhere in it; "
    "run the guest from it, and migrate that to a stream, to take it apart"
)


class Scribe:
    """Takes note of what stands in one message."""

    def __init__(self, walk, means, begins):
        self.walk, self.means, self.begins, self.runs = walk, means, begins, []
        self.encoding = means[len("pages:") :] if means.startswith("pages:") else None

    def named(self, name, value, begin, end):
        try:
            if name == "block" and self.means == "blocks":
                self.block(value)
            elif name == "run" and self.encoding is not None:
                self.run(value)
            elif name == "fragment" and self.encoding is not None:
                self.fragment(value)
            elif name == "section" and self.means == "state":
                self.section(value, end)
        except ValueError as error:
            raise Damage(begin, str(error)) from None

    def block(self, value):
        block = Block(value, self.walk.blocks)
        if self.walk.extract:
            self.walk.extract.block(block, self.walk.grammar.page_size)
        self.walk.blocks.append(block)

    def inside(self, block, first, count):
        if block >= len(self.walk.blocks):
            raise ValueError(f"it names block {block}, of which the stream tells nothing")
        of = self.walk.blocks[block]
        if first + count > of.pages:
            raise ValueError(f"{count} pages from page {first} on are beyond the end of block '{of.name}'")
        return block, first, count

    def run(self, value):
        run = self.inside(number(value, "block"), number(value, "first"), number(value, "count"))
        extract = self.walk.extract
        if extract and self.encoding == "zero":
            # What came before with contents, and is zero now, must be so in the file.
            size = self.walk.grammar.page_size
            for page in self.walk.blocks[run[0]].came(*run[1:]):
                extract.write(run[0], bytes(size), page * size)
        elif extract and self.encoding not in ("raw", "stale"):
            raise ValueError(f"contents in the encoding '{self.encoding}' cannot be extracted")
        self.runs.append(run)

    def fragment(self, value):
        """Words of a bitmap: a run for each bit that is set."""
        block, first, words = number(value, "block"), number(value, "first word"), value.get("bits")
        for at, word in enumerate(words if isinstance(words, list) else []):
            for bit in range(64):
                if is_number(word) and word >> bit & 1:
                    self.runs.append(self.inside(block, min((first + at) * 64 + bit, (1 << 64) - 1), 1))

    def contents(self, source):
        if not self.runs or self.encoding is None:
            raise Damage(source.at, "it has contents of pages where none can be")
        run, size = self.runs[-1], self.walk.grammar.page_size
        if run[2] * size > source.left:
            raise Damage(source.at, f"it is too short for the contents of {run[2]} pages")
        if self.walk.extract:
            self.walk.extract.contents(run, size, source)
        else:
            source.skip(run[2] * size)

    def section(self, value, end):
        text = {field: value[field] if isinstance(value.get(field), str) else "" for field in ("name", "bytes")}
        name, data = text["name"], bytes.fromhex(text["bytes"])
        instance, version = number(value, "instance"), number(value, "version")
        # Its bytes are the last of it.
        begins, kind, fields = end - len(data), self.walk.grammar.states.get((name, version)), None
        if kind:
            try:
                fields = Reader(Memory(data, begins), Nobody()).all(kind)
            except Damage as damage:
                # The next one can be read all the same.
                self.walk.damaged(damage, (f"state of {name} {instance}", self.begins))
        if self.walk.extract:
            self.walk.extract.state(name, instance, data, fields)
        section = {"name": name, "instance": instance, "version": version, "bytes": len(data), "offset": begins}
        section |= {"described": kind is not None, "fields": fields if kind else text["bytes"]}
        self.walk.state.append(section)


class Walk:
    """From message to message, to the end of the stream or to where it is damaged."""

    def __init__(self, input, extract=None, watcher=None):
        self.input, self.extract, self.watcher = input, extract, watcher
        self.offset, self.hello, self.grammar, self.early, self.kept = input.at, None, None, [], 0
        self.blocks, self.state, self.damage, self.messages, self.stages = [], [], [], {}, []
        self.place, self.behind, self.end = None, None, input.at

    def damaged(self, damage, place):
        name, begins = place or (None, None)
        self.damage.append({"offset": damage.at, "message": name, "begins": begins, "why": damage.why})

    def run(self):
        try:
            self.stream()
            self.behind = self.input.behind()
        except Damage as damage:
            self.damaged(damage, self.place)
        if not self.grammar:
            for tag, _, body in self.early:
                self.count(tag, HEADER.size + len(body), "", 0)
        self.end = self.input.at
        return self

    def stream(self):
        self.place = ("hello", self.input.at)
        self.read_hello()
        self.stage("introduction")
        ended = False
        while not ended:
            begins, self.place = self.input.at, None
            header = self.input.read(HEADER.size)
            if not header:
                raise Damage(begins, "the stream ends before its end: the file was cut between two messages")
            if len(header) < HEADER.size:
                self.place = ("header", begins)
                raise Damage(self.input.at, f"the file ends {HEADER.size - len(header)} bytes before it does")
            tag, flags, length = HEADER.unpack(header)
            self.place = (self.name(tag), begins)
            if flags:
                raise Damage(begins, f"its flags are {flags:#x}; the format has none")
            if self.grammar:
                self.check(tag, begins, length)
                ended = self.message(tag, begins, Body(self.input, length))
            else:
                ended = self.before_description(tag, begins, length)

    def name(self, tag):
        if self.grammar and tag in self.grammar.messages:
            return self.grammar.messages[tag][0]
        return "description" if tag == DESCRIPTION and not self.grammar else f"message {tag}"

    def read_hello(self):
        """Length and layout of a hello never change."""
        begins, hello = self.input.at, self.input.read(HELLO)
        if not hello.startswith(MAGIC):
            raise Damage(begins, "no stream begins here: the first bytes are not WHIMBREL")
        if len(hello) < HELLO:
            raise Damage(self.input.at, f"the file ends {HELLO - len(hello)} bytes before it does")
        # The token in between is a secret of the migration.
        oldest, newest, kind, recover, features = struct.unpack("<8xHHBB18xQ", hello)
        self.hello = {"versions": [oldest, newest], "kind": kind, "recover": recover, "features": features}

    def before_description(self, tag, begins, length):
        """Keeps the message; with the description understands those that were kept."""
        self.kept += length
        if self.kept > MOST_EARLY:
            raise Damage(begins, f"no description has come within {MOST_EARLY} bytes")
        body = Body(self.input, length).read(length)
        self.early.append((tag, begins, body))
        if tag != DESCRIPTION:
            return False
        try:
            self.grammar = Grammar(body)
        except Unusable as error:
            self.early.pop()
            raise Damage(begins, str(error)) from None
        ended = False
        for tag, begins, body in self.early:
            self.place = (self.name(tag), begins)
            self.check(tag, begins, len(body))
            ended |= self.message(tag, begins, Memory(body, begins + HEADER.size))
        self.early = []
        return ended

    def check(self, tag, begins, length):
        if tag not in self.grammar.messages:
            raise Damage(begins, f"the description knows no message {tag}")
        longest = self.grammar.messages[tag][1]
        if length > longest:
            raise Damage(begins, f"it claims {length} bytes, more than the {longest} it may have")

    def message(self, tag, begins, source):
        """Reads a message's body; whether it was the stream's last."""
        name, _, means, body = self.grammar.messages[tag]
        length = source.left + HEADER.size
        if body is None:
            source.skip(source.left)
            self.count(tag, length, name, 0)
            return False
        if means == "blocks" and self.blocks:
            raise Damage(begins, "the stream tells of its RAM twice")
        scribe = Scribe(self, means, begins)
        value = Reader(source, scribe).all(body)
        passed = value.get("pass") if isinstance(value, dict) and is_number(value.get("pass")) else 0
        if means == "pass-begin":
            self.stage(f"pass {passed}")
        self.count(tag, length, name, sum(run[2] for run in scribe.runs))
        for block, first, count in scribe.runs:
            sent = self.blocks[block].sent
            sent[name] = sent.get(name, 0) + count
            self.blocks[block].mark(first, count, scribe.encoding != "stale")
        if self.watcher and scribe.runs:
            self.watcher(begins, name, self.blocks, scribe.runs)
        if means == "pass-end":
            self.stage(f"after pass {passed}")
        if means == "mapped":
            raise Damage(begins, MAPPED)
        if means == "cancelled":
            why = value.get("why") if isinstance(value, dict) else ""
            raise Damage(begins, f"the source kept the guest: {why if isinstance(why, str) else ''}")
        return means == "end"

    def stage(self, name):
        if not self.stages or self.stages[-1]["stage"] != name:
            self.stages.append({"stage": name, "messages": 0, "bytes": 0, "pages": {}})

    def count(self, tag, length, kind, pages):
        tally = self.messages.setdefault(tag, {"messages": 0, "bytes": 0, "pages": 0})
        tally["pages"] += pages
        for of in (tally, self.stages[-1]) if self.stages else (tally,):
            of["messages"] += 1
            of["bytes"] += length
        if pages and self.stages:
            by_kind = self.stages[-1]["pages"]
            by_kind[kind] = by_kind.get(kind, 0) + pages

    def json(self):
        names = self.grammar.messages if self.grammar else {}
        messages = [{"number": tag, "name": names.get(tag, [None])[0]} | self.messages[tag] for tag in sorted(self.messages)]
        brief = [{key: value for key, value in state.items() if key != "fields"} for state in self.state]
        return {
            "offset": self.offset,
            "end": self.end,
            "behind": self.behind,
            "hello": self.hello,
            "page-size": self.grammar.page_size if self.grammar else None,
            "blocks": [block.json() for block in self.blocks],
            "messages": messages,
            "stages": self.stages,
            "state": brief,
            "damage": self.damage,
        }
