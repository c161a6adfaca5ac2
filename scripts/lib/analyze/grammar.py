"""The stream's description of itself, understood; and values read by it."""

import json
import re

from .source import Damage

# No message has more values; no type is nested deeper.
MOST_VALUES, DEPTH = 1 << 20, 32


class Unusable(Exception):
    """A part of the description that is not there, or not what it should be."""


def is_number(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


class Type:
    """Reads one kind of value; `least` is the fewest bytes that it takes."""

    def __init__(self, least, read):
        self.least, self.read = least, read


class Grammar:
    """The description, understood."""

    def __init__(self, text):
        try:
            self.description = json.loads(text.decode(), parse_constant=lambda word: [][0])
            json.dumps(self.description, ensure_ascii=False).encode()
        except (ValueError, IndexError, RecursionError):
            raise Unusable("the description is not JSON") from None
        if not isinstance(self.description, dict):
            raise Unusable("the description is not JSON")
        self.types, self.messages, self.states = {}, {}, {}
        self.page_size = self.description.get("page-size")
        if not is_number(self.page_size) or not 1 <= self.page_size <= 1 << 24:
            raise self.unusable("page-size")
        for name, said in self.part("types", dict).items():
            kind = self.kind(said) or self.refuse(f"type '{name}'")
            self.types[name] = Type(kind.least, self.named(name, kind))
        for number, said in self.part("messages", dict).items():
            self.message(number, said)
        for said in self.part("state", list):
            self.state(said)

    @staticmethod
    def unusable(what):
        return Unusable(f"the description has no usable {what}")

    def refuse(self, what):
        raise self.unusable(what)

    def part(self, key, kind):
        part = self.description.get(key)
        return part if isinstance(part, kind) else self.refuse(key)

    def message(self, number, said):
        what = f"message '{number}'"
        if not re.fullmatch(r"\+?[0-9]+", number, re.ASCII) or int(number) > 0xFFFF or not isinstance(said, dict):
            self.refuse(what)
        body = None
        if "body" in said:
            body = self.kind(said["body"]) or self.refuse(what)
        means = said.get("means", "")
        if not isinstance(said.get("name"), str) or not is_number(said.get("longest")) or not isinstance(means, str):
            self.refuse(what)
        self.messages[int(number)] = (said["name"], said["longest"], means, body)

    def state(self, said):
        fields = self.kind(said.get("fields")) if isinstance(said, dict) else None
        if not fields or not isinstance(said.get("name"), str) or not is_number(said.get("version")):
            self.refuse("state")
        self.states[said["name"], said["version"]] = fields

    def kind(self, said, depth=0):
        """The type, or None."""
        if depth > DEPTH:
            return None
        if isinstance(said, str):
            return self.word(said)
        if isinstance(said, list):
            return self.structure(said, depth)
        if isinstance(said, dict) and "list" in said:
            of, count = self.kind(said.get("of"), depth + 1), Count.of(said["list"])
            # Of what takes no bytes there could be any number.
            return self.list(count, of) if count and of and of.least > 0 else None
        if isinstance(said, dict):
            then = self.kind(said.get("then"), depth + 1)
            if then and isinstance(said.get("if"), str) and is_number(said.get("is")):
                return self.condition(said["if"], said["is"], then)
        return None

    def word(self, word):
        sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i64": 8}
        head, colon, rest = word.partition(":")
        if colon:
            count = Count.of(rest) if head in ("bytes", "text") else None
            if not count:
                return None
            if head == "bytes":
                return Type(count.least(1), lambda reader: reader.bytes(count).hex())
            return Type(count.least(1), lambda reader: as_text(reader.bytes(count)))
        if word in sizes:
            size, signed = sizes[word], word == "i64"
            return Type(size, lambda reader: int.from_bytes(reader.read(size), "little", signed=signed))
        if word == "contents":
            return Type(0, lambda reader: reader.witness.contents(reader.source))
        return self.types.get(word)

    @staticmethod
    def named(name, kind):
        def read(reader):
            begin = reader.source.at
            value = reader.value(kind)
            if isinstance(value, dict):
                reader.witness.named(name, value, begin, reader.source.at)
            return value

        return read

    def structure(self, said, depth):
        fields = []
        for field in said:
            if not isinstance(field, list) or len(field) != 2 or not isinstance(field[0], str):
                return None
            kind = self.kind(field[1], depth + 1)
            if not kind:
                return None
            fields.append((field[0], kind))

        def read(reader):
            scope = {}
            reader.scopes.append(scope)
            for name, kind in fields:
                reader.path.append(name)
                scope[name] = reader.value(kind)
                reader.path.pop()
            return reader.scopes.pop()

        return Type(sum(kind.least for _, kind in fields), read)

    @staticmethod
    def list(count, of):
        def read(reader):
            number = reader.count(count)
            if number is not None and number * of.least > reader.source.left:
                raise reader.short()
            items = []
            while len(items) < number if number is not None else reader.source.left > 0:
                items.append(reader.value(of))
            return items

        return Type(count.least(of.least), read)

    @staticmethod
    def condition(field, wanted, then):
        return Type(0, lambda reader: reader.value(then) if reader.earlier(field) == wanted else None)


class Count:
    """How many bytes or items: always so many, a u32 before them, an earlier field's number, or up to the end."""

    def __init__(self, kind, value=None):
        self.kind, self.value = kind, value

    @classmethod
    def of(cls, word):
        if not isinstance(word, str):
            return None
        if word in ("u32", "end"):
            return cls(word)
        if word.startswith("="):
            return cls("field", word[1:])
        fixed = re.fullmatch("[0-9]+", word, re.ASCII)
        return cls("fixed", int(word)) if fixed and int(word) < 1 << 32 else None

    def least(self, each):
        return {"fixed": lambda: self.value * each, "u32": lambda: 4}.get(self.kind, lambda: 0)()


def as_text(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "hex:" + data.hex()


class Nobody:
    """Is told what stands in a state, where nothing means anything by itself."""

    def named(self, name, value, begin, end):
        pass

    def contents(self, source):
        raise Damage(source.at, "it has contents of pages where none can be")


class Reader:
    """Values of one message or state."""

    def __init__(self, source, witness):
        self.source, self.witness, self.scopes, self.path, self.values = source, witness, [], [], 0

    def all(self, kind):
        value = self.value(kind)
        if self.source.left:
            raise Damage(self.source.at, f"{self.source.left} bytes are left after its last field")
        return value

    def value(self, kind):
        self.values += 1
        if self.values > MOST_VALUES:
            raise Damage(self.source.at, "it has more values than a message can have")
        return kind.read(self)

    def short(self):
        return Damage(self.source.at, f"it ends inside its field '{'.'.join(self.path)}'")

    def read(self, count):
        if count > self.source.left:
            raise self.short()
        return self.source.read(count)

    def bytes(self, count):
        number = self.count(count)
        return self.read(self.source.left if number is None else number)

    def count(self, count):
        """None: up to the end."""
        if count.kind == "fixed":
            return count.value
        if count.kind == "u32":
            return int.from_bytes(self.read(4), "little")
        return self.earlier(count.value) if count.kind == "field" else None

    def earlier(self, name):
        found = next((scope[name] for scope in reversed(self.scopes) if name in scope), None)
        if not is_number(found):
            raise Damage(self.source.at, f"the description counts by a field '{name}' that is no earlier number")
        return found
