"""A relay between two pairs of sockets, and looks into the pump's process."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from broker.helpers.fork_start import start_server
from broker.helpers.process.fork_client import ForkServer
from broker.helpers.pump.client import Pump
from broker.helpers.pump.handle import PumpHandle
from broker.helpers.pump.starting import PUMPS, fork_pump
from broker.ipc.pump import RelayMode, StreamEnd
from tests.kit.relay.inloop import relay_in_loop

Relay = Callable[..., Awaitable[StreamEnd]]


def stream(sock: socket.socket) -> trio.SocketStream:
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


@dataclass
class Line:
    """A client and a server with a relay in between.

    ``client`` speaks to side *a*, ``server`` to side *b*.
    """

    client: trio.SocketStream
    server: trio.SocketStream
    ended: trio.Event = field(default_factory=trio.Event)
    result: StreamEnd | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def end(self, seconds: float = 60) -> StreamEnd:
        with trio.fail_after(seconds):
            await self.ended.wait()
        assert self.result is not None
        return self.result

    def ends(self, side: str) -> tuple[trio.SocketStream, trio.SocketStream]:
        """(this side's stream, the other side's)."""
        both = (self.client, self.server)
        return both if side == "a" else (both[1], both[0])


def lay(nursery: trio.Nursery, relay: Relay, **options) -> Line:
    """Start a relay in a nursery and return its two far ends.

    They are closed when the nursery is cancelled.
    """
    client, a = socket.socketpair()
    b, server = socket.socketpair()
    line = Line(stream(client), stream(server))

    async def run() -> None:
        with line.scope:
            line.result = await relay(a.detach(), b.detach(), **options)
        line.ended.set()

    async def hold() -> None:
        try:
            await trio.sleep_forever()
        finally:
            line.client.socket.close()
            line.server.socket.close()

    nursery.start_soon(run)
    nursery.start_soon(hold)
    return line


@contextlib.asynccontextmanager
async def relay_of(kind: str, handle: PumpHandle) -> AsyncIterator[Relay]:
    """One of the relays that must behave alike: splice, python, copy, in-loop.

    ``python`` is splice by a pump without its part in C; the handle's pump
    must have been started so.
    """
    async with running(handle) as pump:
        if kind == "in-loop":
            yield relay_in_loop
            return
        mode = RelayMode.SPLICE if kind == "python" else RelayMode(kind)

        def relay(a: int, b: int, **options) -> Awaitable[StreamEnd]:
            return pump.relay(a, b, mode_ab=mode, mode_ba=mode, **options)

        yield relay


@contextlib.asynccontextmanager
async def running(handle: PumpHandle) -> AsyncIterator[Pump]:
    """A pump's client for the length of a block; then the pump is gone."""
    pump = Pump(handle)
    async with trio.open_nursery() as nursery:
        await nursery.start(pump.run)
        yield pump
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def forked_pump() -> AsyncIterator[Pump]:
    """A pump as a broker's, for the length of a block."""
    server = ForkServer(PUMPS, start_server)
    try:
        async with running(await fork_pump(server)) as pump:
            yield pump
    finally:
        await server.close()


async def read_all(source: trio.SocketStream, seconds: float = 60) -> bytes:
    received = bytearray()
    with trio.fail_after(seconds):
        async for chunk in source:
            received += chunk
    return bytes(received)


def pattern(size: int) -> bytes:
    """Bytes of which every part says where it belongs."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


async def fill(sending: trio.SocketStream, patience: float = 0.3) -> int:
    """Send the pattern until nothing more goes in for so long; returns how much did."""
    block = pattern(251 * 260)
    sent = 0
    while True:
        with trio.move_on_after(patience) as waited:
            await trio.lowlevel.wait_writable(sending.socket)
        if waited.cancelled_caught:
            return sent
        sent += await sending.socket.send(block[sent % 251 :])


def fds(pid: int | str = "self") -> list[str]:
    """Return the targets of the process's descriptors (readlink), sorted."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.append(str(entry.readlink()))
    return sorted(found)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kib(pid: int) -> int:
    """Resident memory of the process's own (anonymous) pages."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError("no RssAnon")
