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

import rich_click as click
import trio

from broker.cli import render
from broker.cli.proxy import pulse, wayland
from broker.core.errors import UpstreamError, VitrailError
from broker.core.escape import displayed
from broker.core.limits import relay as relay_limits
from broker.helpers.pump.client import Pump
from broker.helpers.pump.handle import PumpHandle
from broker.helpers.pump.process import start_pump
from broker.ipc.pump import RelayMode, StreamEnd
from broker.net.addresses import Endpoint, parse_connect, parse_listen
from broker.net.endpoints import connect
from broker.net.listeners import Listener, open_listener

_MODES = click.Choice([str(mode) for mode in RelayMode])

# Descriptors for listening, connecting and logging, beside those of connections.
_SPARE_DESCRIPTORS = 32


@click.group("proxy")
def command() -> None:
    """Move bytes between sockets, without sandboxes or policy."""


@dataclass(frozen=True)
class Order:
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
@click.option("--listen", "listen_on", required=True, metavar="ENDPOINT")
@click.option("--connect", "connect_to", required=True, metavar="ENDPOINT")
@click.option(
    "--mode-in", type=_MODES, default="auto", help="How bytes from the client move."
)
@click.option(
    "--mode-out", type=_MODES, default="auto", help="How bytes to the client move."
)
@click.option(
    "--idle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End a connection that moves no byte for so long (default: never).",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1, relay_limits.RELAY_STREAMS),
    default=1024,
    show_default=True,
    help="Beyond it, clients wait in the listen queue.",
)
@click.option(
    "--max-write",
    type=click.IntRange(min=0),
    default=0,
    metavar="BYTES",
    help="Largest single write, for transports that lose larger ones; copied then unless set otherwise.",
)
@click.option("--json", is_flag=True, help="One line of JSON for each connection.")
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
    """Accept connections on one endpoint and relay each to another.

    ENDPOINT is unix:PATH, vsock:CID:PORT or hybrid:PATH:PORT (the vsock of
    Firecracker, Cloud Hypervisor and vhost-device-vsock); to listen also
    vsock:PORT.  Half-close is kept: when one side ends, the other may still
    answer for as long as it likes.

    Between UNIX sockets the bytes never enter this program's memory.  SIGTERM
    or Ctrl-C ends it and all connections.
    """
    order = Order(
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
    handle = start_pump()  # forks, so before trio
    try:
        trio.run(serve, order, handle)
    except BaseExceptionGroup as group:
        # Nurseries wrap the errors that end them; the first is shown to the user.
        ours = group.subgroup(VitrailError)
        if ours is None:
            raise
        raise _first(ours) from group


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _raise_limits() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(order: Order, handle: PumpHandle) -> None:
    """Relay until a signal comes.  Raises UpstreamError when the pump dies."""
    pump = Pump(handle)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        listener = await open_listener(order.listen)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(pump.run)
                nursery.start_soon(_fail_with, pump)
                nursery.start_soon(_accept, order, pump, listener)
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
        "the relay's process died, and all connections ended",
        hint="start 'brokerctl proxy relay' again",
    )


async def _accept(order: Order, pump: Pump, listener: Listener) -> None:
    # A client beyond the limit waits in the kernel's queue, and costs nothing.
    slots = trio.Semaphore(_slots(order))
    async with trio.open_nursery() as connections:
        while True:
            await slots.acquire()
            conn = await listener.accept()
            connections.start_soon(_carry, order, pump, conn, slots)


def _slots(order: Order) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # In this process a connection has two descriptors at most, for a moment.
    return max(1, min(order.max_connections, (soft - _SPARE_DESCRIPTORS) // 2))


async def _carry(
    order: Order, pump: Pump, conn: socket.socket, slots: trio.Semaphore
) -> None:
    began = time.monotonic()
    try:
        try:
            there = await connect(order.connect)
        except BaseException:
            conn.close()
            raise
        end = await pump.relay(
            conn.detach(),
            there.detach(),
            mode_ab=order.mode_in,
            mode_ba=order.mode_out,
            idle_seconds=order.idle,
            max_write=order.max_write,
        )
        _report(order, end, time.monotonic() - began)
    except VitrailError as error:
        _report_failure(order, error)
    finally:
        slots.release()


def _report(order: Order, end: StreamEnd, seconds: float) -> None:
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


def _report_failure(order: Order, error: VitrailError) -> None:
    if order.json:
        render.json_line({"event": "failed", "message": str(error)})
    else:
        _say(f"failed: {error.diagnostics()}")


def _say(line: str) -> None:
    sys.stderr.write(displayed(line) + "\n")
    sys.stderr.flush()


command.add_command(wayland.command)
command.add_command(pulse.command)
