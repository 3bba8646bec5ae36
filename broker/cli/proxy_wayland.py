"""``brokerctl proxy wayland``: one filter alone in front of the compositor."""

from __future__ import annotations

import os
import resource
import signal
import socket
import traceback
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.core.errors import InternalError, SetupError, VitrailError
from broker.core.names import take_sandbox_name
from broker.wayland.rules import Fullscreen, WindowRules, take_color

_LABEL_TOP = 18
"""Upper strip with a label: letters of 14 pixels and some room."""


@click.command("wayland")
@click.option("--sandbox", required=True, help="Name shown before every window title.")
@click.option(
    "--listen",
    required=True,
    type=click.Path(path_type=Path),
    help="Socket to make; what connects to it is filtered.",
)
@click.option("--display", help="The compositor's socket [default: $WAYLAND_DISPLAY].")
@click.option(
    "--color", default="#d01010", show_default=True, help="Colour of the frame."
)
@click.option(
    "--border", default=4, show_default=True, help="Width of the frame, pixels."
)
@click.option(
    "--top", type=int, help="Width of the upper strip [default: as --border]."
)
@click.option("--label", is_flag=True, help="Show the name in the upper strip.")
@click.option(
    "--fullscreen",
    type=click.Choice([f.value for f in Fullscreen]),
    default=Fullscreen.FAKE.value,
    show_default=True,
    help="What a wish for the whole screen becomes.",
)
@click.option("--allow", multiple=True, help="A further global to allow; repeatable.")
@click.option(
    "--translucent", is_flag=True, help="Let what lies behind a window shine through."
)
def command(
    *,
    sandbox: str,
    listen: Path,
    display: str | None,
    color: str,
    border: int,
    top: int | None,
    label: bool,
    fullscreen: str,
    allow: tuple[str, ...],
    translucent: bool,
) -> None:
    """Filter and frame the windows of whatever connects to a socket.

    For containers and confined programs: bind the socket into the sandbox as
    its only Wayland display.
    """
    name = take_sandbox_name(sandbox)
    rules = WindowRules(
        name=name,
        color=take_color(color),
        border=border,
        top=top or (max(border, _LABEL_TOP) if label else border),
        label=label,
        fullscreen=Fullscreen(fullscreen),
        allow=frozenset(allow),
        translucent=translucent,
    )
    listener = open_listener(listen)
    # Each client has two sockets and some files of shared memory.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        trio.run(_run, listener, rules, display)
    finally:
        listener.close()
        listen.unlink(missing_ok=True)


def open_listener(path: Path) -> socket.socket:
    """A listening UNIX socket of mode 0600.  Raises SetupError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise SetupError(
            f"cannot listen on {path}: {error.strerror}",
            hint="the directory must exist and be yours, and no file may be in the way",
        ) from error
    finally:
        os.umask(before)
    return listener


async def _run(
    listener: socket.socket, rules: WindowRules, display: str | None
) -> None:
    # Late: trio and the tables are not needed to print a help text.
    from broker.session.security_context import open_context
    from broker.session.wayland_machine import RealMachine
    from broker.session.wayland_shell import (
        Service,
        connect_display,
        display_path,
        serve,
    )
    from broker.wayland.sandbox import Sandbox

    path = display_path(display)
    connect_display(path).close()  # a wrong display is said at once
    context = open_context(path, rules.name)

    def report(error: Exception) -> None:
        if isinstance(error, InternalError):
            traceback.print_exception(error)
        elif isinstance(error, VitrailError):
            render.error(error)
        else:
            raise error

    def connect() -> socket.socket:
        return context.connect() if context is not None else connect_display(path)

    service = Service(rules, Sandbox(rules.name), RealMachine(), connect, report)
    mark = " (the compositor knows it as a sandbox, too)" if context else ""
    render.note(f"framing {rules.name}{mark}: WAYLAND_DISPLAY={listener.getsockname()}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener, service)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
