"""``brokerctl proxy pulse``: one filter alone in front of the sound server."""

from __future__ import annotations

import signal
import socket
import traceback
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.cli.proxy_wayland import open_listener
from broker.core.errors import InternalError, VitrailError
from broker.core.names import take_sandbox_name
from broker.pulse.rules import SoundRules


@click.command("pulse")
@click.option("--sandbox", required=True, help="Name shown before every stream.")
@click.option(
    "--listen",
    required=True,
    type=click.Path(path_type=Path),
    help="Socket to make; what connects to it is filtered.",
)
@click.option(
    "--server",
    metavar="PATH",
    help="The sound server's socket [default: $PULSE_SERVER, or the session's].",
)
def command(*, sandbox: str, listen: Path, server: str | None) -> None:
    """Filter the sound of whatever connects to a socket."""
    rules = SoundRules(take_sandbox_name(sandbox))
    listener = open_listener(listen)
    try:
        trio.run(_run, listener, rules, server)
    finally:
        listener.close()
        listen.unlink(missing_ok=True)


async def _run(listener: socket.socket, rules: SoundRules, server: str | None) -> None:
    from broker.pulse.sandbox import SoundSandbox
    from broker.session.pulse_shell import (
        Service,
        connect_server,
        read_cookie,
        serve,
        server_path,
    )

    path = server_path(server)
    connect_server(path).close()

    def report(error: Exception) -> None:
        if isinstance(error, InternalError):
            traceback.print_exception(error)
        elif isinstance(error, VitrailError):
            render.error(error)
        else:
            raise error

    sandbox = SoundSandbox(rules, lambda event: render.note(str(event)))
    service = Service(sandbox, lambda: connect_server(path), read_cookie(), report)
    render.note(f"filtering {rules.name}: PULSE_SERVER=unix:{listener.getsockname()}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener, service)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
