"""``brokerctl proxy relay`` whose broker computes half of the time.

What a stream notices of a broker that parses a policy, draws up a report or
runs another task's callback: bursts of 10 ms, 10 ms apart.
"""

from __future__ import annotations

import sys
import time

import trio

from broker.cli.proxy import ProxyOrder, serve
from broker.helpers.filters.carrying_filters import pump_filter
from broker.helpers.pump.handle import PumpHandle
from broker.helpers.pump.process import start_pump
from broker.ipc.pump import RelayMode
from broker.net.addresses import parse_connect, parse_listen

BURST = 0.01


async def compute() -> None:
    while True:
        end = time.monotonic() + BURST
        while time.monotonic() < end:
            pass
        await trio.sleep(BURST)


async def main(order: ProxyOrder, handle: PumpHandle) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute)
        await serve(order, handle)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    order = ProxyOrder(
        listen=parse_listen(f"unix:{sys.argv[1]}"),
        connect=parse_connect(f"unix:{sys.argv[2]}"),
        mode_in=RelayMode.AUTO,
        mode_out=RelayMode.AUTO,
        idle=None,
        max_connections=1024,
        max_write=0,
        json=False,
        quiet=True,
    )
    trio.run(main, order, start_pump(pump_filter()))
