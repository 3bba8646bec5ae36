"""``brokerctl proxy``: the relay alone, without sandboxes or policy.

For people who would have reached for socat.  The data path is the brokers'
own: a pump process that splices; this program only accepts and connects.
"""

from __future__ import annotations

import resource
import signal
import socket
import sys
import time
from dataclasses import dataclass
from functools import partial

import rich_click as click
import trio

from broker.cli import render
from broker.core.errors import UpstreamError, VitrailError
from broker.core.escape import displayed
from broker.core.limits import relay as relay_limits
from broker.helpers.apart import from_child
from broker.helpers.pump.client import Pump, milliseconds
from broker.helpers.pump.handle import PumpHandle
from broker.helpers.pump.process import start_pump
from broker.ipc.pump import RelayMode, StreamEnd, Submit
from broker.net.addresses import Endpoint, UnixEndpoint, parse_connect, parse_listen
from broker.net.endpoints import connect, connect_at_once
from broker.net.listeners import Listener, open_listener

_MODES = click.Choice([str(mode) for mode in RelayMode])

# Descriptors for listening, connecting and logging, beside those of connections.
_SPARE_DESCRIPTORS = 32

_BATCH = 16
"""Connections that are begun before the ends of others are looked at."""


@click.group("proxy")
def command() -> None:
    """Run a relay without sandboxes or policy."""


@dataclass(frozen=True)
class ProxyOrder:
    """The options of the command line.  Modes: *in* is from the listening side."""

    listen: Endpoint
    connect: Endpoint
    mode_in: RelayMode
    mode_out: RelayMode
    idle: float | None
    max_connections: int
    max_write: int
    json: bool
    quiet: bool


@command.command()
@click.option(
    "--listen",
    "listen_on",
    required=True,
    metavar="ENDPOINT",
    help="Endpoint to accept connections on.",
)
@click.option(
    "--connect",
    "connect_to",
    required=True,
    metavar="ENDPOINT",
    help="Endpoint to which each connection is relayed.",
)
@click.option(
    "--mode-in",
    type=_MODES,
    default="auto",
    help="How bytes from the client are transferred.",
)
@click.option(
    "--mode-out",
    type=_MODES,
    default="auto",
    help="How bytes to the client are transferred.",
)
@click.option(
    "--idle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Close a connection that is idle for this time [default: never].",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1, relay_limits.RELAY_STREAMS),
    default=1024,
    show_default=True,
    help="Maximum number of concurrent connections; further clients wait in the listen queue.",
)
@click.option(
    "--max-write",
    type=click.IntRange(min=0),
    default=0,
    metavar="BYTES",
    help="Maximum size of a single write, for transports that lose larger ones; implies the mode 'copy' unless set.",
)
@click.option("--json", is_flag=True, help="Print one JSON object per connection.")
@click.option("-q", "--quiet", is_flag=True, help="Report only errors.")
def relay(
    *,
    listen_on: str,
    connect_to: str,
    mode_in: str,
    mode_out: str,
    idle: float | None,
    max_connections: int,
    max_write: int,
    json: bool,
    quiet: bool,
) -> None:
    """Accept connections on one endpoint, and relay each one to another endpoint.

    ENDPOINT is unix:PATH, vsock:CID:PORT or hybrid:PATH:PORT (the vsock of
    Firecracker, Cloud Hypervisor and vhost-device-vsock); to listen, also
    vsock:PORT.  Half-closed connections are supported: after one side stops sending, the
    other can still send.

    Between UNIX sockets, bytes are not copied through this program's memory.  SIGTERM
    or Ctrl-C closes all connections and ends the program.
    """
    order = ProxyOrder(
        listen=parse_listen(listen_on),
        connect=parse_connect(connect_to),
        mode_in=RelayMode(mode_in),
        mode_out=RelayMode(mode_out),
        idle=idle,
        max_connections=max_connections,
        max_write=max_write,
        json=json,
        quiet=quiet,
    )
    _raise_limits()
    [program] = from_child(_filters)
    handle = start_pump(program)  # forks, so before trio
    try:
        trio.run(serve, order, handle)
    except BaseExceptionGroup as group:
        # Nurseries wrap the errors that end them; the first is shown to the user.
        ours = group.subgroup(VitrailError)
        if ours is None:
            raise
        raise _first(ours) from group


def _filters() -> list[bytes]:
    # Late: in the child alone that compiles it.
    from broker.helpers.filters.carrying_filters import pump_filter

    return [pump_filter()]


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _raise_limits() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(order: ProxyOrder, handle: PumpHandle) -> None:
    """Relay until a signal comes.  Raises UpstreamError when the pump dies."""
    pump = Pump(handle)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        listener = await open_listener(order.listen)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(pump.run)
                nursery.start_soon(_fail_with, pump)
                nursery.start_soon(Connections(order, pump, nursery).accept, listener)
                # One line, whatever the terminal's width: scripts wait for it.
                _say(f"listening on {order.listen}, relaying to {order.connect}")
                async for _ in signals:
                    break
                nursery.cancel_scope.cancel()
        finally:
            listener.close()


async def _fail_with(pump: Pump) -> None:
    await pump.wait_died()
    raise UpstreamError(
        "the relay's process exited, so all connections were closed",
        hint="start 'brokerctl proxy relay' again",
    )


class Connections:
    """The connections of a relay.

    A carried one has no task: the pump's reader reports its end, and the end of
    the pump's reader is the end of all.  Only a pump that has to be waited for has.
    """

    def __init__(self, order: ProxyOrder, pump: Pump, nursery: trio.Nursery) -> None:
        self._order = order
        self._pump = pump
        self._nursery = nursery
        # A client beyond the limit waits in the kernel's queue, and costs nothing.
        self._slots = trio.Semaphore(_slots(order))
        idle_ms = milliseconds(order.idle)
        self._terms = Submit(0, order.mode_in, order.mode_out, idle_ms, order.max_write)

    async def accept(self, listener: Listener) -> None:
        """Accept connections until cancelled, and relay each."""
        slots = self._slots
        while True:
            if not slots.value:
                await slots.acquire()
                slots.release()
            for conn in await listener.accept_batch(min(slots.value, _BATCH)):
                slots.acquire_nowait()
                self._begin(conn, time.monotonic())

    def _begin(self, conn: socket.socket, began: float) -> None:
        """Relay a connection; start a task if the far end does not accept at once."""
        there = self._connect_at_once()
        try:
            taken = there and self._submit(conn, there, began)
        except UpstreamError as error:
            self._failed(error)
            taken = -1
        if not taken:
            self._nursery.start_soon(self._carry, conn, there, began)
            return
        conn.close()
        if there is not None:
            there.close()

    def _connect_at_once(self) -> socket.socket | None:
        """Connect to a UNIX endpoint without waiting; None if that is not possible."""
        endpoint = self._order.connect
        if not isinstance(endpoint, UnixEndpoint):
            return None
        try:
            return connect_at_once(endpoint, endpoint.path)
        except (OSError, VitrailError):
            return None  # the task reports it

    def _submit(self, conn: socket.socket, there: socket.socket, began: float) -> int:
        settle = partial(self._ended, began)
        return self._pump.submit(conn.fileno(), there.fileno(), self._terms, settle)

    async def _carry(
        self, conn: socket.socket, there: socket.socket | None, began: float
    ) -> None:
        """Connect to the far end, have the pump relay, and report the end."""
        try:
            with conn:
                there = there or await connect(self._order.connect)
                with there:
                    while not self._submit(conn, there, began):
                        await self._pump.wait_room()
        except VitrailError as error:
            self._failed(error)

    def _failed(self, error: VitrailError) -> None:
        self._slots.release()
        _report_failure(self._order, error)

    def _ended(self, began: float, end: StreamEnd) -> None:
        self._slots.release()
        # Those that end because the relay does are not reported.
        if not self._nursery.cancel_scope.cancel_called:
            _report(self._order, end, time.monotonic() - began)


def _slots(order: ProxyOrder) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # In this process a connection has two descriptors at most, for a moment.
    return max(1, min(order.max_connections, (soft - _SPARE_DESCRIPTORS) // 2))


def _report(order: ProxyOrder, end: StreamEnd, seconds: float) -> None:
    """Print how a connection ended."""
    if order.json:
        render.json_line(
            {
                "event": "closed",
                "reason": str(end.reason),
                "errno": end.errno,
                "side": str(end.side),
                "bytes_in": end.bytes_ab,
                "bytes_out": end.bytes_ba,
                "mode_in": str(end.mode_ab),
                "mode_out": str(end.mode_ba),
                "seconds": round(seconds, 6),
            }
        )
    elif not order.quiet or end.errno:
        _say(
            f"closed: {end.describe()}, {render.size(end.bytes_ab)} in "
            f"({end.mode_ab}), {render.size(end.bytes_ba)} out ({end.mode_ba}), "
            f"{render.seconds(seconds)}"
        )


def _report_failure(order: ProxyOrder, error: VitrailError) -> None:
    if order.json:
        render.json_line({"event": "failed", "message": str(error)})
    else:
        _say(f"failed: {error.diagnostics()}")


def _say(line: str) -> None:
    sys.stderr.write(displayed(line) + "\n")
    sys.stderr.flush()
