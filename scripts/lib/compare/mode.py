"""Whether a migration went the way its row says: what both sides told in, a sentence out. No input or output.

A figure of the wrong mode is worse than none. QEMU tells of a second pass when nothing has been sent, ends in precopy where the
rest fits its downtime limit, and takes a command for postcopy at the end of what it is doing. So no run is believed: what it
sent before and after the switch, and the statuses of both sides, decide which mode it was.
"""

from dataclasses import dataclass

from .plan import AFTER_A_PASS, MULTIFD, PRECOPY

# How often a case is measured at most, until it was of its mode.
TRIES = 4
# What a postcopy at once may send before it, by what the guest uses: device state, and pages that were on their way.
BEFORE_AT_ONCE = 0.01
# Of the bytes before the switch, those that must have gone over multifd channels where these are the mode.
OVER_CHANNELS = 0.9
# The status that both sides have from the switch on.
SWITCHED = "postcopy-active"


@dataclass(frozen=True)
class Account:
    """What both sides told of a migration that is over."""

    # The statuses of the source and of the destination, in order.
    source: tuple
    destination: tuple
    # `ram` of the source's query-migrate, at the end.
    ram: dict
    # The bytes of RAM that the guest has written: what the first pass must bring, at least.
    used: int

    @property
    def before(self):
        """The bytes that went before the switch, or in all: whichever counter each VMM counts multifd's in."""
        return self.ram["transferred"] - self.ram["postcopy-bytes"]

    @property
    def times_sent(self):
        """How many times over pages were sent before and after the switch, zero pages included."""
        return (self.ram["normal"] + self.ram["duplicate"]) / (self.ram["total"] / self.ram["page-size"])


def pass_ended(ram):
    """Whether each page has been sent once, by a query-migrate in the middle of a migration.

    No event says it: with postcopy-ram on, QEMU's MIGRATION_PASS counts looks at the dirty log, one in 50 ms from the start.
    """
    return bool(ram) and ram["normal"] + ram["duplicate"] >= ram["total"] / ram["page-size"]


def wrong(mode, account):
    """Why a migration was not of that mode, or None if it was."""
    return _wrong_switch(mode, account) or _wrong_amount(mode, account) or _wrong_channels(mode, account)


def _wrong_switch(mode, account):
    for side, statuses in (("the source", account.source), ("the destination", account.destination)):
        if mode in PRECOPY and (seen := [status for status in statuses if status.startswith("postcopy")]):
            return f"{side} had status {seen[0]} in a precopy"
        if mode not in PRECOPY and SWITCHED not in statuses:
            return f"{side} never had status {SWITCHED}: it ended in precopy"
    after, asked = account.ram["postcopy-bytes"], account.ram["postcopy-requests"]
    if mode in PRECOPY and (after or asked):
        return f"{after:,} bytes went in postcopy, and {asked} pages were asked for, in a precopy"
    if mode not in PRECOPY and not after:
        return "nothing was left to send after the switch"
    return None


def _wrong_amount(mode, account):
    mib = lambda size: f"{size / (1 << 20):,.0f} MiB"
    sent, used = account.before, account.used
    if mode == "postcopy":
        # No pass went before it, so what went over several channels went afterwards.
        sent -= account.ram.get("multifd-bytes", 0)
        if sent > used * BEFORE_AT_ONCE:
            return f"{mib(sent)} went before the switch of a postcopy at once"
    elif sent < used:
        return f"{mib(sent)} went before the switch, less than a pass over the {mib(used)} that the guest has written"
    elif mode in AFTER_A_PASS and sent >= 2 * used:
        return f"{mib(sent)} went before the switch, more than one pass over the {mib(used)} that the guest has written"
    return None


def _wrong_channels(mode, account):
    over = account.ram.get("multifd-bytes", 0)
    if mode in MULTIFD and over < OVER_CHANNELS * account.before:
        return f"{over:,} of {account.before:,} bytes went over multifd channels"
    return None


def measured(measure, case, thrown_out, tell):
    """Measures a case until the migration was of its mode, a few times at most; runs that were not are put into `thrown_out`.

    `measure(case, again)` gives a run, and `tell(run)` says what came of each.
    """
    for attempt in range(TRIES):
        run = measure(case, attempt > 0)
        tell(run)
        if run.wrong_mode is None:
            return run
        thrown_out.append(run)
    run = type(run)(case, failure=f"none of {TRIES} migrations was of its mode; the last: {run.wrong_mode}")
    tell(run)
    return run
