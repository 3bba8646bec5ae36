"""``brokerctl forward``: forward a local port to a sandbox."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from contextlib import suppress
from functools import partial

import msgspec
import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.interrupts import silence
from broker.cli.run.connect import open_client
from broker.core.errors import UpstreamError, sole
from broker.core.escape import printable
from broker.ipc.control.api import ForwardItem, ForwardRequest
from broker.ipc.control.methods import FORWARD
from broker.ipc.in_thread import in_thread

_PORTS = re.compile(r"([0-9]{1,5})(?::([0-9]{1,5}))?")
_PIECE = 1 << 16
_REPORT_SECONDS = 10.0
"""The broker reports within this time why a connection had no answer."""


@click.command("forward")
@click.argument("sandbox", shell_complete=sandboxes)
@click.argument("ports", metavar="PORT[:SANDBOX-PORT]")
@click.option("--stdio", is_flag=True, help="Connect standard input and output.")
@click.option("--localhost", is_flag=True, help="Listen on 127.0.0.1.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(
    sandbox: str, ports: str, *, stdio: bool, localhost: bool, as_json: bool
) -> None:
    """Forward PORT on a loopback address to a port of SANDBOX, until interrupted.

    Each sandbox has a loopback address of its own, which is printed: a browser shares
    cookies between all ports of one address.  With --localhost it is 127.0.0.1, which
    your own services have, too.

    A rule for vitrail.Tcp with the source @adminvm must allow the connection, such as
    'vitrail.Tcp +8080 @adminvm SANDBOX allow'.  Only programs of this user can connect.

    With --stdio, no port is opened; the only connection uses standard input and output,
    as for ProxyCommand of ssh.

    Exit code: 0 done (with --stdio), 1 refused or ended, 2 usage error.
    """
    found = _PORTS.fullmatch(ports)
    if found is None:
        raise click.UsageError(f"'{ports}' is not PORT or PORT:SANDBOX-PORT")
    local, port = int(found[1]), int(found[2] or found[1])
    if not 0 < port <= 65535 or local > 65535:
        raise click.UsageError(f"'{ports}': a port must be between 1 and 65535")
    if stdio and (found[2] or as_json or localhost):
        raise click.UsageError("with --stdio, specify only the sandbox's port")
    request = ForwardRequest(
        sandbox=sandbox, port=port, local=0 if stdio else local, localhost=localhost
    )
    if stdio:
        # ssh ends its ProxyCommand by SIGHUP: no news for who used it.
        silence(signal.SIGHUP)
        trio.run(_stdio, request)
    else:
        trio.run(_forward, request, as_json)


async def _forward(request: ForwardRequest, as_json: bool) -> None:  # noqa: FBT001
    """Request the forward, and print its port and failures."""
    began = False

    async def show(item: ForwardItem) -> None:
        nonlocal began
        began = True
        if as_json:
            render.json_line(msgspec.to_builtins(item))
        elif item.failed:
            render.note(f"a connection failed: {printable(item.failed)}")
        else:
            name = printable(item.sandbox)
            render.note(
                f"forwarding {printable(item.address)}:{item.local} to port "
                f"{request.port} of {name}"
            )

    async with open_client() as client:
        await client.call(FORWARD, request, show)
    if not began:
        raise UpstreamError(
            f"the broker did not forward a port to {printable(request.sandbox)}",
            hint="check that brokerctl and the running broker have the same version",
        )


async def _stdio(request: ForwardRequest) -> None:
    """Forward one connection to standard input and output."""
    try:
        async with open_client() as client, trio.open_nursery() as nursery:

            async def take(item: ForwardItem) -> None:
                if item.local is None:
                    raise UpstreamError(
                        f"a connection failed: {printable(item.failed)}"
                    )
                nursery.start_soon(
                    _copied, (item.address, item.local), nursery.cancel_scope
                )

            await client.call(FORWARD, request, take)
    except ExceptionGroup as group:
        raise sole(group) from group


async def _copied(address: tuple[str, int], over: trio.CancelScope) -> None:
    """Copy standard input to the port, and the port to standard output."""
    with socket.create_connection(address) as sock:
        sock.settimeout(None)
        run = partial(in_thread, abandon_on_cancel=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, _send, sock)
            if not await run(_receive, sock):
                await trio.sleep(_REPORT_SECONDS)  # 'take' raises the reason
            over.cancel()


def _send(sock: socket.socket) -> None:
    """Copy standard input to the socket; in a thread."""
    try:
        while data := os.read(sys.stdin.fileno(), _PIECE):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the other end has gone, which shows in the other direction


def _receive(sock: socket.socket) -> int:
    """Copy the socket to standard output, and return the count of bytes; in a thread."""
    count = 0
    with suppress(OSError):
        while data := sock.recv(_PIECE):
            count += len(data)
            while data:
                data = data[os.write(sys.stdout.fileno(), data) :]
    return count
