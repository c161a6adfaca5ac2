"""RAM blocks, and which of their pages came."""

from .grammar import is_number
from .source import PIECE

# No guest has more.
MOST_PAGES = 1 << 34


def number(value, field):
    found = value.get(field)
    if not is_number(found):
        raise ValueError(f"the description has no field '{field}' where one is needed")
    return found


class Block:
    """A RAM block, and which of its pages came."""

    def __init__(self, value, before):
        name = value.get("name")
        self.name = name if isinstance(name, str) else ""
        self.guest_address, self.pages = number(value, "guest address"), number(value, "pages")
        if sum(block.pages for block in before) + self.pages > MOST_PAGES:
            raise ValueError("its guest has more RAM than any")
        self.sent = {}
        self.come = bytearray((self.pages + 7) // 8)

    def mark(self, first, count, come):
        first_byte, last_byte = first // 8, (first + count - 1) // 8
        head, tail = 0xFF << first % 8 & 0xFF, 0xFF >> 7 - (first + count - 1) % 8
        if count == 0:
            return
        if first_byte == last_byte:
            self.change(first_byte, head & tail, come)
            return
        self.change(first_byte, head, come)
        for begin in range(first_byte + 1, last_byte, PIECE):
            end = min(last_byte, begin + PIECE)
            self.come[begin:end] = (b"\xff" if come else b"\0") * (end - begin)
        self.change(last_byte, tail, come)

    def change(self, byte, mask, come):
        self.come[byte] = self.come[byte] | mask if come else self.come[byte] & ~mask

    def came(self, first, count):
        """Those pages of a run that came already."""
        for byte in range(first // 8, (first + count + 7) // 8):
            if bits := self.come[byte]:
                for page in range(max(first, byte * 8), min(first + count, byte * 8 + 8)):
                    if bits >> page % 8 & 1:
                        yield page

    def covered(self):
        pieces = range(0, len(self.come), PIECE)
        return sum(int.from_bytes(self.come[at : at + PIECE], "little").bit_count() for at in pieces)

    def json(self):
        return {"name": self.name, "guest-address": self.guest_address, "pages": self.pages, "come": self.covered(), "sent": self.sent}
