#!/usr/bin/env python3
"""Moves a guest with QEMU's own QMP client: qmp_client.py SOURCE_SOCKET DESTINATION_SOCKET

Needs the package qemu.qmp. The end-to-end tests run it, and it serves as an example for programs.
"""

import asyncio
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient


async def address(destination):
    """Where the destination waits, as an argument of `migrate`."""
    at = (await destination.execute("query-migrate"))["socket-address"][0]
    return f"tcp:{at['host']}:{at['port']}" if at["type"] == "inet" else f"unix:{at['path']}"


async def move(source, uri):
    """Moves the guest to `uri`; the statuses on the way."""
    capabilities = [{"capability": "events", "state": True}, {"capability": "postcopy-ram", "state": True}]
    await source.execute("migrate-set-capabilities", {"capabilities": capabilities})
    await source.execute("migrate-set-parameters", {"x-postcopy-after": 1, "downtime-limit": 300})
    statuses = []
    with source.listener(("MIGRATION",)) as migration:
        await source.execute("migrate", {"uri": uri})
        async for event in migration:
            statuses.append(event["data"]["status"])
            if statuses[-1] in ("completed", "failed", "cancelled", "postcopy-paused"):
                return statuses


async def main(source_socket, destination_socket):
    source, destination = QMPClient("source"), QMPClient("destination")
    await source.connect(source_socket)
    await destination.connect(destination_socket)
    try:
        resumed = EventListener("RESUME")
        destination.register_listener(resumed)
        commands = {command["name"] for command in await source.execute("query-commands")}
        assert {"migrate", "query-migrate", "migrate_cancel", "stop", "cont", "quit"} <= commands, commands

        statuses = await move(source, await address(destination))
        ways = ["setup", "active", "device", "postcopy-active", "completed"]
        assert statuses == ways, statuses
        await resumed.get()

        report = await source.execute("query-migrate")
        assert report["status"] == "completed" and report["ram"]["remaining"] == 0, report
        assert (await source.execute("query-status"))["status"] == "postmigrate"
        assert (await destination.execute("query-status")) == {"running": True, "status": "running"}
        try:
            await source.execute("cont")
        except ExecuteError as error:
            assert error.error_class == "GenericError", error
        else:
            raise AssertionError("the source started the guest again")
        print(f"moved: {' '.join(statuses)}; {report['total-time']} ms, downtime {report['downtime']} ms")
    finally:
        await source.disconnect()
        await destination.disconnect()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 60))
