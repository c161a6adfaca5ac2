"""Ping from outside: echo requests at a fixed pace, and what came of them."""

from dataclasses import dataclass, field

from . import frames

MAC = frames.mac("52:54:00:ee:00:01")
ADDRESS = frames.ipv4("192.168.77.1")
EVERY = 0.01


@dataclass
class Echoes:
    """One guest that is pinged: when each request left, when each answer came. Sequence numbers are indexes."""

    mac: bytes
    address: bytes
    identity: int
    next_at: float
    sent: list = field(default_factory=list)
    answered: dict = field(default_factory=dict)

    def due(self, now):
        """The next request if it is time for one."""
        if now < self.next_at:
            return None
        self.next_at += EVERY
        if self.next_at <= now:
            # After a pause of the lab itself: no burst to catch up, which nobody would send.
            self.next_at = now + EVERY
        self.sent.append(now)
        sequence = (len(self.sent) - 1) & 0xFFFF
        return frames.echo_request(self.mac, MAC, self.address, ADDRESS, self.identity, sequence)

    def answer(self, sequence, now):
        """Notes an answer. A sequence number stands for the latest request that bears it."""
        index = len(self.sent) - 1 - ((len(self.sent) - 1 - sequence) & 0xFFFF)
        if index >= 0:
            self.answered.setdefault(index, now)

    def figures(self):
        """How many left, how many got no answer, the longest time without an answer, and where that began."""
        times = sorted(self.answered.values())
        gaps = [(later - earlier, earlier) for earlier, later in zip(times, times[1:])]
        longest, at = max(gaps, default=(None, None))
        # What left just before the end had no time to come back.
        settled = [index for index, left in enumerate(self.sent) if times and left < times[-1]]
        lost = sum(index not in self.answered for index in settled)
        return {"sent": len(self.sent), "answered": len(times), "lost": lost, "gap": longest, "gap_at": at}


class Station:
    """The lab's own port: answers ARP, pings guests. Time is an argument."""

    def __init__(self):
        self.pinged = {}

    def begin(self, name, mac, address, now):
        """Starts to ping."""
        used = {it.identity for it in self.pinged.values()}
        identity = next(number for number in range(1, 1 << 16) if number not in used)
        self.pinged[name] = Echoes(frames.mac(mac), frames.ipv4(address), identity, now)

    def end(self, name):
        """Stops to ping, and gives the figures."""
        return self.pinged.pop(name).figures()

    def due(self, now):
        """Frames whose time has come."""
        return [frame for echoes in self.pinged.values() if (frame := echoes.due(now))]

    def next_at(self):
        """When the next frame is due; None for never."""
        return min((echoes.next_at for echoes in self.pinged.values()), default=None)

    def receive(self, frame, now):
        """Takes in a frame, and returns those that answer it."""
        if answered := frames.echo_answer(frame):
            for echoes in self.pinged.values():
                if echoes.identity == answered[0]:
                    echoes.answer(answered[1], now)
            return []
        answer = frames.arp_answer(frame, MAC, ADDRESS)
        return [answer] if answer else []
