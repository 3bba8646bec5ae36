"""A relay that looks at nothing, in Python under trio: the least a filter could cost.

    python -m tests.bench.pulse.copy SOCKET SERVER

What is measured of it is the interpreter, the event loop and the kernel; what
the filter takes beyond it is the filter's own.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

import trio


async def copy(
    source: socket.socket, sink: socket.socket, scope: trio.CancelScope
) -> None:
    """One direction, until either side ends."""
    while True:
        await trio.lowlevel.wait_readable(source)
        data = source.recv(65536)
        if not data:
            break
        while data:
            try:
                data = data[sink.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sink)
    scope.cancel()


async def relay(client: socket.socket, path: str) -> None:
    """One connection."""
    with client, socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        client.setblocking(False)
        server.setblocking(False)
        with contextlib.suppress(BaseExceptionGroup):  # who closed with bytes unread
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, client, server, nursery.cancel_scope)
                nursery.start_soon(copy, server, client, nursery.cancel_scope)


async def main() -> None:
    """Entry point."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{sys.argv[1]}.new")
        listener.listen(64)
        Path(f"{sys.argv[1]}.new").rename(sys.argv[1])  # who sees it can connect
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                client, _ = listener.accept()
                nursery.start_soon(relay, client, sys.argv[2])


if __name__ == "__main__":
    trio.run(main)
