"""In a machine: the relay alone, on several ports.  Imports only the project.

    python way_relay.py PORT:MODE:END…      END: vsock:PORT (of this machine), unix:PATH

One pump for all of them.  For each finished stream it prints port and modes.
"""

from __future__ import annotations

import socket
import sys

import trio

from broker.relay.client import Pump
from broker.relay.contract import Mode
from broker.relay.process import PumpHandle, start_pump

LOCAL = 1  # VMADDR_CID_LOCAL: the kernel's loopback


async def connected(end: str) -> trio.socket.SocketType:
    kind, _, where = end.partition(":")
    if kind == "unix":
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.connect(where)
    else:
        sock = trio.socket.socket(socket.AF_VSOCK)
        await sock.connect((LOCAL, int(where)))
    return sock


async def carry(
    pump: Pump, conn: trio.socket.SocketType, port: str, mode: Mode, end: str
) -> None:
    there = await connected(end)
    done = await pump.relay(conn.detach(), there.detach(), mode_ab=mode, mode_ba=mode)
    print(port, done.mode_ab, done.mode_ba, flush=True)


async def serve(pump: Pump, nursery: trio.Nursery, spec: str) -> None:
    port, mode, end = spec.split(":", 2)
    listener = trio.socket.socket(socket.AF_VSOCK)
    await listener.bind((socket.VMADDR_CID_ANY, int(port)))
    listener.listen(64)
    while True:
        conn, _ = await listener.accept()
        nursery.start_soon(carry, pump, conn, port, Mode(mode), end)


async def main(handle: PumpHandle, specs: list[str]) -> None:
    pump = Pump(handle)
    async with trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        for spec in specs:
            nursery.start_soon(serve, pump, nursery, spec)


if __name__ == "__main__":
    first = start_pump()  # forks, so before trio
    trio.run(main, first, sys.argv[1:])
