#!/usr/bin/env python3
"""Moves a guest with QEMU's own QMP client: qmp_client.py precopy|postcopy|hybrid|recover SOURCE_SOCKET DESTINATION_SOCKET

Needs the package qemu.qmp. The end-to-end tests run it, and it serves as an example for programs.
"""

import asyncio
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient

# The statuses on the way by each mode.
PRECOPY = ["setup", "active", "device", "completed"]
POSTCOPY = ["setup", "active", "device", "postcopy-device", "postcopy-active", "completed"]
RECOVERED = POSTCOPY[:-1] + ["postcopy-paused", "postcopy-recover-setup", "postcopy-recover", "postcopy-active", "completed"]
MODES = {"precopy": PRECOPY, "postcopy": POSTCOPY, "hybrid": POSTCOPY, "recover": RECOVERED}
# Where a migration needs somebody, or no one any more.
STOPS = {"completed", "failed", "cancelled", "postcopy-paused"}
SLOW = 4 << 20


class Statuses:
    """The statuses that one side tells."""

    def __init__(self, client):
        self.events = EventListener("MIGRATION")
        self.seen = []
        client.register_listener(self.events)

    async def until(self, *wanted):
        while not self.seen or self.seen[-1] not in wanted:
            self.seen.append((await self.events.get())["data"]["status"])
            assert self.seen[-1] in wanted or self.seen[-1] not in STOPS, self.seen


async def address(destination):
    """Where the destination waits, as an argument of `migrate`."""
    at = (await destination.execute("query-migrate"))["socket-address"][0]
    return f"tcp:{at['host']}:{at['port']}" if at["type"] == "inet" else f"unix:{at['path']}"


async def prepare(mode, source, destination):
    """Says how the guest is to move."""
    postcopy = mode != "precopy"
    for side in (source, destination):
        capabilities = [{"capability": "events", "state": True}]
        if side is source:
            # The destination listens already, and can be told only what needs no agreement.
            capabilities.append({"capability": "postcopy-ram", "state": postcopy})
        await side.execute("migrate-set-capabilities", {"capabilities": capabilities})
    parameters = {"downtime-limit": 300}
    if mode == "hybrid":
        parameters["postcopy-policy"] = "after-passes=1"
    elif postcopy:
        # The precopy lasts until it is told to be a postcopy.
        parameters["max-bandwidth"] = SLOW
    await source.execute("migrate-set-parameters", parameters)


async def switch(source, statuses, slow):
    """Has the guest run at the destination now; the rest of its memory comes slowly or not."""
    await statuses.until("active")
    await source.execute("migrate-start-postcopy")
    await source.execute("migrate-set-parameters", {"max-bandwidth": 0, "max-postcopy-bandwidth": SLOW if slow else 0})
    await statuses.until("postcopy-active")


async def break_and_recover(source, destination, here, there):
    """Breaks the link out of band, and joins the two halves over another."""
    await there.until("postcopy-active")
    await source.execute("migrate-pause", oob=True)
    await here.until("postcopy-paused")
    await there.until("postcopy-paused")
    await destination.execute("migrate-recover", {"uri": "tcp:127.0.0.1:0"}, oob=True)
    await source.execute("migrate-set-parameters", {"max-postcopy-bandwidth": 0})
    await source.execute("migrate", {"uri": await address(destination), "resume": True})


async def move(mode, source, destination):
    """Moves the guest; the statuses on the way."""
    await prepare(mode, source, destination)
    here, there = Statuses(source), Statuses(destination)
    await source.execute("migrate", {"uri": await address(destination)})
    if mode in ("postcopy", "recover"):
        await switch(source, here, slow=mode == "recover")
    if mode == "recover":
        await break_and_recover(source, destination, here, there)
    await here.until("completed")
    await there.until("completed")
    return here.seen


async def refused(client, command, error_class):
    """Has the client refused a command."""
    try:
        await client.execute(command)
    except ExecuteError as error:
        assert error.error_class == error_class, error
    else:
        raise AssertionError(f"{command} was carried out")


async def main(mode, source_socket, destination_socket):
    source, destination = QMPClient("source"), QMPClient("destination")
    await source.connect(source_socket)
    await destination.connect(destination_socket)
    try:
        resumed = EventListener("RESUME")
        destination.register_listener(resumed)
        commands = {command["name"] for command in await source.execute("query-commands")}
        assert {"migrate", "query-migrate", "migrate_cancel", "stop", "cont", "quit"} <= commands, commands

        statuses = await move(mode, source, destination)
        assert statuses == MODES[mode], statuses
        await resumed.get()

        report = await source.execute("query-migrate")
        assert report["status"] == "completed" and report["ram"]["remaining"] == 0, report
        assert (report["ram"]["postcopy-bytes"] > 0) == (mode != "precopy"), report
        assert (await source.execute("query-status"))["status"] == "postmigrate"
        assert (await destination.execute("query-status")) == {"running": True, "status": "running"}
        await refused(source, "cont", "GenericError")
        await refused(source, "human-monitor", "CommandNotFound")
        # The source never learns of it where the link broke before the destination said that the guest runs.
        downtime = report.get("downtime", "unknown")
        print(f"moved: {' '.join(statuses)}; {report['total-time']} ms, downtime {downtime} ms")
    finally:
        await source.disconnect()
        await destination.disconnect()


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in MODES:
        sys.exit(__doc__.splitlines()[0])
    asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 60))
