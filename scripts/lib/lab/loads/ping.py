"""A guest that is pinged from outside, and announced where it arrives."""

import dataclasses

from ..progress import LabFailed
from .load import Load

# Rounds of announcements after a move (Whimbrel's default), and in one that the lab orders.
ROUNDS_OF_A_MOVE = 5
ORDERED = {"initial": 20, "max": 100, "rounds": 3, "step": 40}


class Ping(Load):
    """The guest is pinged from outside every 10 ms."""

    name = "ping"

    # A lost ping is no error in itself: what arrives at a stopped guest is lost if the old host's queue is full.
    def shape(self, plan):
        """A network card."""
        return dataclasses.replace(plan, net=True)

    def moving(self, bench, guest):
        """It answers."""
        network, mac = bench.hosts.network, guest.plan.mac()
        self.known, self.heard = len(network.moves(mac)), len(network.announcements(mac))
        self.place = guest.at.host.name
        network.ping(mac, guest.plan.address())
        bench.pause(2)

    def moved(self, bench, guest, move):
        """It answers from the new place, the switch has learnt that by an announcement, and more of them can be ordered."""
        network, mac = bench.hosts.network, guest.plan.mac()
        # Some answers of the new place belong to the figures.
        bench.pause(2)
        seen = network.pinged(mac)
        if not seen["answered"]:
            raise LabFailed("no ping was answered")
        move.ping_gap, move.ping_lost = seen["gap"], seen["lost"]
        here = guest.at.host.name
        move.notes.append(self._learnt(network, mac, here))
        self._announced(bench, guest, "after the move", ROUNDS_OF_A_MOVE)
        guest.at.qmp.execute("announce-self", **ORDERED)
        self._announced(bench, guest, "by 'announce-self'", ORDERED["rounds"])

    def _learnt(self, network, mac, here):
        """How the switch came to know the new place, in half a line."""
        moves, announced = network.moves(mac)[self.known :], network.announcements(mac)[self.heard :]
        # An earlier guest of this address may have been elsewhere when it ended: then this one's first word is a move, too.
        if moves and moves[0].reached == self.place:
            del moves[0]
        if [it.reached for it in moves] != [here]:
            raise LabFailed(f"the switch saw the guest move to {[it.reached for it in moves] or 'nowhere'}, not to {here}")
        first = next((it for it in announced if it.port == here), None)
        if first is None:
            raise LabFailed(f"the guest was not announced on host {here}: the switch learnt its port by {moves[0].by}, by chance")
        # A guest that has something to say may do so a moment before it is announced.
        return f"switch learnt by {moves[0].by}, {first.by} {(first.at - moves[0].at) * 1000:+.0f} ms"

    def _announced(self, bench, guest, when, wanted):
        """Exactly so many rounds of RARP left the guest's host, and none of them elsewhere; each is what it should be."""
        network, mac, here = bench.hosts.network, guest.plan.mac(), guest.at.host.name

        def rarps():
            return [it for it in network.announcements(mac)[self.heard :] if it.by == "RARP"]

        deadline = bench.now() + 120
        while len(rarps()) < wanted and bench.now() < deadline:
            bench.pause(0.1)
        # One round too many would come within this.
        bench.pause(0.5)
        seen = rarps()
        self.heard = len(network.announcements(mac))
        if [it.port for it in seen] != [here] * wanted:
            raise LabFailed(f"{when}, {wanted} RARPs on host {here} were expected, and those on {[it.port for it in seen]} came")
        if fault := next((it.fault for it in seen if it.fault), None):
            raise LabFailed(f"{when}, there was a RARP {fault}")
