"""A learning Ethernet switch, as plain logic: frames in, ports out, and a log of addresses that moved."""

from dataclasses import dataclass

from . import frames


@dataclass
class Move:
    """A MAC address was seen at another port than before."""

    at: float
    mac: str
    left: str
    reached: str
    by: str


@dataclass
class Announcement:
    """A MAC address was announced at a port, known there or not."""

    at: float
    mac: str
    port: str
    by: str
    # What is wrong with it; nothing as a rule.
    fault: str = ""


class Switch:
    """Forwards a frame to where its destination was last seen, or to all. Time is an argument: seconds on any clock."""

    def __init__(self, ports):
        self.ports = list(ports)
        self.moves = []
        self.announcements = []
        self.floods = 0
        self._places = {}

    def forward(self, frame, came_from, now):
        """The ports that this frame goes out of."""
        if len(frame) < frames.SHORTEST:
            return []
        self._learn(frame, came_from, now)
        destination = frame[:6]
        # The lowest bit of the first byte marks addresses of groups, broadcast among them.
        place = None if destination[0] & 1 else self._places.get(destination)
        if place is None:
            self.floods += 1
            return [port for port in self.ports if port != came_from]
        return [place] if place != came_from else []

    def place(self, mac):
        """The port at which a MAC address was last seen."""
        return self._places.get(frames.mac(mac))

    def _learn(self, frame, port, now):
        source = frame[6:12]
        if source[0] & 1:
            return
        kind = frames.kind(frame)
        if kind in frames.ANNOUNCEMENTS:
            fault = frames.rarp_fault(frame) if kind == "RARP" else ""
            self.announcements.append(Announcement(now, frames.mac_text(source), port, kind, fault))
        before = self._places.get(source)
        if before == port:
            return
        self._places[source] = port
        if before is not None:
            self.moves.append(Move(now, frames.mac_text(source), before, port, kind))
