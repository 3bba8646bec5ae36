"""``brokerctl proxy wayland``: one filter alone in front of the compositor."""

from __future__ import annotations

import resource
import signal
from functools import partial
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.cli.proxy.unjailed import listen_option, unjailed_option
from broker.core.errors import SetupError
from broker.core.names import take_sandbox_name
from broker.core.streams.wayland_rules import Fullscreen, WindowRules, take_color

_LABEL_TOP = 18
"""Upper strip with a label: letters of 14 pixels and some room."""


@click.command("wayland")
@click.option("--sandbox", required=True, help="Name shown before every window title.")
@listen_option
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
    default=Fullscreen.FRAMED.value,
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
@unjailed_option
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
    allow_unjailed: bool,
) -> None:
    """Filter and frame the windows of clients that connect to a socket.

    The filter runs in a confined process, as a broker's do.  For containers and confined
    programs: bind the socket into the sandbox as its only Wayland display.
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
    run = partial(_run, waypipe=waypipe, allow_unjailed=allow_unjailed)
    trio.run(run, listen, rules, display)


async def _run(
    listen: Path,
    rules: WindowRules,
    display: str | None,
    *,
    waypipe: bool,
    allow_unjailed: bool,
) -> None:
    """Run a worker with the Wayland filter until interrupted."""
    # Late: trio and the tables are not needed to print a help text.
    from broker.cli.proxy.lone_worker import LoneWindows, open_lone_worker
    from broker.helpers.compositor_connection import connect_compositor
    from broker.helpers.compositor_socket import display_path
    from broker.ipc.accept_loop import serve
    from broker.jail.wayland.security_context import open_context
    from broker.net.addresses import UnixEndpoint
    from broker.net.listeners import open_listener

    path = display_path(name=display)
    if path is None:
        raise SetupError(
            "XDG_RUNTIME_DIR is not set, so the compositor's socket cannot be found",
            hint="run the command inside the desktop session, or pass an absolute "
            "path with --display",
        )
    listener = await open_listener(UnixEndpoint(listen.absolute()), descriptors=True)
    try:
        connect_compositor(path).close()  # a wrong display is reported at once
        context = open_context(path, rules.name)
        mark = ""
        if context is not None:
            context.close()  # the keeper asks for its own
            mark = " (the compositor also identifies its clients as sandboxed)"
        async with open_lone_worker(
            rules, path, allow_unjailed=allow_unjailed
        ) as worker:
            how = (
                f"waypipe --no-gpu --compress none --socket {listener.path} server -- …"
                if waypipe
                else f"WAYLAND_DISPLAY={listener.path}"
            )
            render.note(f"framing {rules.name}{mark}: {how}")
            windows = LoneWindows(worker)
            one = windows.waypipe if waypipe else windows.program
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, listener.sock, one)
                nursery.start_soon(windows.report)
                with trio.open_signal_receiver(
                    signal.SIGINT, signal.SIGTERM
                ) as signals:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()
                        break
    finally:
        listener.close()
