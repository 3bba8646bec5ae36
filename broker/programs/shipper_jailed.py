"""``python -m broker.programs.shipper_jailed``: ships the audit log, from inside a jail.

It reads the log and its receivers' answers, and writes cursors.  ``broker.programs.shipper``
starts it and ends it.  Its arguments are two descriptors: of its orders, and of a socket
that ends when it is to end.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import msgspec
import trio

from broker.helpers.shipper.jailed import ShipperOrders
from broker.helpers.shipper.run import ShipperPaths, ship_for_ever
from broker.ipc import event_loop


async def _ship(orders: ShipperOrders, control: socket.socket) -> None:
    """Ship the log by the opened sockets until the control socket closes."""
    place = ShipperPaths(
        Path(orders.log),
        Path(orders.cursors),
        orders.machine,
        orders.batch_seconds,
        {name: socket.socket(fileno=fd) for name, fd in orders.doors.items()},
    )
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await trio.lowlevel.wait_readable(control)
            stop.set()

        nursery.start_soon(watch)
        await ship_for_ever(place, orders.target, stop)
        nursery.cancel_scope.cancel()


def main() -> None:
    """Entry point: enter the jail, and ship the log by the orders received."""
    os.umask(0o077)
    with open(int(sys.argv[1]), "rb") as file:  # noqa: PTH123 -- a descriptor
        file.seek(0)
        orders = msgspec.json.decode(file.read(), type=ShipperOrders)
    event_loop.run(_ship, orders, socket.socket(fileno=int(sys.argv[2])))


if __name__ == "__main__":
    main()
