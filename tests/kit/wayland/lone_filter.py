"""A Wayland filter alone in a process of its own, with limits that a game needs.

``python -m tests.kit.wayland.lone_filter COMPOSITOR SOCKET``; with ``PLAYER_TRACE=FILE``
in its environment it writes all messages there.  ``filter_process``
has the same filter in a jailed worker, with a person's limits.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.helpers.compositor_connection import connect_compositor
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker.wayland.files_and_pipes import RealMachine
from tests.kit.accept_loop import serve
from tests.kit.wayland.service import WaylandService, serve_client

CONSTRAINTS = "zwp_pointer_constraints_v1"


async def main(compositor: str, path: str) -> None:
    """Filter the clients of a socket until the process is killed."""
    rules = WindowRules(
        "played",
        fullscreen=Fullscreen.REAL,
        allow=frozenset({CONSTRAINTS}),
        promote=True,
    )
    connect = partial(connect_compositor, Path(compositor))
    service = WaylandService(
        rules,
        Sandbox(rules.name),
        RealMachine(),
        connect,
        _print_reason,
        _tracer(os.environ.get("PLAYER_TRACE")),
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        await serve(listener, partial(serve_client, service=service))


def _tracer(path: str | None) -> Callable[[str], None] | None:
    """Return what writes a traced message, with its time, to the end of a file."""
    if path is None:
        return None
    log = Path(path).open("a", buffering=1)  # noqa: SIM115 - as long as the process

    def write(line: str) -> None:
        log.write(f"{time.monotonic():.4f} {line}\n")

    return write


def _print_reason(error: Exception) -> None:
    """Print why a connection ended: a game counts the reasons."""
    print(str(error).replace("\n", " "), flush=True)


if __name__ == "__main__":
    # The game opens hundreds of windows a minute.  With the limit of a person's sandbox
    # most of the time would pass in waiting: of 48 seconds, 40.
    limits.WAYLAND_MAPPINGS_PER_MINUTE = 10**9
    trio.run(main, *sys.argv[1:])
