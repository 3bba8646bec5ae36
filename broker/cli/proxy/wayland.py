"""``brokerctl proxy wayland``: one filter alone in front of the compositor."""

from __future__ import annotations

import resource
import signal
import sys
from functools import partial
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import InternalError, SetupError, VitrailError
from broker.core.names import take_sandbox_name
from broker.core.stderr_log import log_exception
from broker.core.streams.wayland_rules import Fullscreen, WindowRules, take_color

_LABEL_TOP = 18
"""Upper strip with a label: letters of 14 pixels and some room."""


@click.command("wayland")
@click.option("--sandbox", required=True, help="Name shown before every window title.")
@click.option(
    "--listen",
    required=True,
    type=NamedPath(path_type=Path),
    help="Socket to create, whose clients are filtered.",
)
@click.option("--display", help="Socket of the compositor [default: $WAYLAND_DISPLAY].")
@click.option(
    "--color", default="#d01010", show_default=True, help="Colour of the frame."
)
@click.option(
    "--border", default=4, show_default=True, help="Width of the frame in pixels."
)
@click.option(
    "--top",
    type=int,
    help="Height of the upper strip in pixels [default: as --border].",
)
@click.option("--label", is_flag=True, help="Show the name in the upper strip.")
@click.option(
    "--fullscreen",
    type=click.Choice([f.value for f in Fullscreen]),
    default=Fullscreen.FAKE.value,
    show_default=True,
    help="How to answer fullscreen requests.",
)
@click.option("--allow", multiple=True, help="Allow another global; may be repeated.")
@click.option(
    "--waypipe",
    is_flag=True,
    help="Accept waypipe's protocol ('waypipe server') instead of Wayland.",
)
@click.option(
    "--subsurfaces",
    type=click.Choice(["crop", "promote"]),
    default="crop",
    show_default=True,
    help="How to handle parts that extend beyond a window: cut them off, or show "
    "them in framed popups.",
)
@click.option("--translucent", is_flag=True, help="Allow translucent windows.")
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
    subsurfaces: str,
    translucent: bool,
    waypipe: bool,
) -> None:
    """Filter and frame the windows of clients that connect to a socket.

    For containers and confined programs: bind the socket into the sandbox as its only
    Wayland display.
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
        promote=subsurfaces == "promote",
    )
    # Each client has two sockets and some files of shared memory.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trio.run(partial(_run, listen, rules, display, waypipe=waypipe))


async def _run(
    listen: Path, rules: WindowRules, display: str | None, *, waypipe: bool
) -> None:
    """Run the Wayland filter until interrupted."""
    # Late: trio and the tables are not needed to print a help text.
    from broker.helpers.compositor_connection import connect_compositor
    from broker.helpers.compositor_socket import display_path
    from broker.ipc.accept_loop import serve
    from broker.ipc.wayland_rules import traced
    from broker.jail.wayland.sandbox import Sandbox
    from broker.jail.wayland.security_context import open_context
    from broker.jail.worker.wayland.connection import (
        WaylandConnection,
        WaylandService,
        serve_client,
    )
    from broker.jail.worker.wayland.files_and_pipes import RealMachine
    from broker.jail.worker.wayland.waypipe_connection import StreamConnection
    from broker.jail.worker.wayland.waypipe_memory import StreamMachine
    from broker.net.addresses import UnixEndpoint
    from broker.net.listeners import open_listener

    path = display_path(name=display)
    if path is None:
        raise SetupError(
            "XDG_RUNTIME_DIR is not set, so the compositor's socket cannot be found",
            hint="run the command inside the desktop session, or pass an absolute path with --display",
        )
    listener = await open_listener(UnixEndpoint(listen.absolute()), descriptors=True)
    try:
        connect_compositor(path).close()  # a wrong display is reported at once
        context = open_context(path, rules.name)
        service = WaylandService(
            rules,
            Sandbox(rules.name),
            StreamMachine() if waypipe else RealMachine(),
            partial(connect_compositor, path) if context is None else context.connect,
            _report,
            _trace if traced() else None,
            StreamConnection if waypipe else WaylandConnection,
        )
        mark = (
            " (the compositor also identifies its clients as sandboxed)"
            if context
            else ""
        )
        how = (
            f"waypipe --no-gpu --compress none --socket {listener.path} server -- …"
            if waypipe
            else f"WAYLAND_DISPLAY={listener.path}"
        )
        render.note(f"framing {rules.name}{mark}: {how}")
        async with trio.open_nursery() as nursery:
            one = partial(serve_client, service=service)
            nursery.start_soon(serve, listener.sock, one)
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    break
    finally:
        listener.close()


def _report(error: Exception) -> None:
    """Print the error that ended a connection.  Raises errors that are not ours."""
    if isinstance(error, InternalError):
        # guard: mistakes of the Wayland proxy drive no terminal
        log_exception(error)
    elif isinstance(error, VitrailError):
        render.error(error)
    else:
        raise error


def _trace(line: str) -> None:
    sys.stderr.write(f"{line}\n")
