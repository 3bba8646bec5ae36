"""Record a session: a filter in front of the compositor that writes it down.

    python -m tests.bench.wayland.record OUT -- PROGRAM ARGUMENT...

The program is a client of ours to be shown on $WAYLAND_DISPLAY.  What it says
and what the compositor answers goes to OUT when it ends.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

import trio

from broker.launch.spawn import spawn
from broker.session.wayland_machine import RealMachine
from broker.session.wayland_shell import Connection, connect_display, display_path
from broker.wayland.sandbox import Sandbox
from tests.kit import wayland_sessions


class Recording(Connection):
    """A connection that keeps what it was fed."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.chunks: list[tuple[str, bytes, int]] = []
        core = self.core
        feed_client, feed_server = core.from_client, core.from_server

        def client(data, fds, now):
            self.chunks.append(("c", data, len(fds)))
            feed_client(data, fds, now)

        def server(data, fds, now):
            self.chunks.append(("s", data, len(fds)))
            feed_server(data, fds, now)

        core.from_client, core.from_server = client, server  # type: ignore[method-assign]


async def record(out: Path, argv: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "display"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        child = spawn(argv, env={**os.environ, "WAYLAND_DISPLAY": str(path)})
        # A program may connect more than once; the first is the one of interest.
        client, _ = await trio.to_thread.run_sync(listener.accept)
        listener.close()
        with client, connect_display(display_path(None)) as server:
            connection = Recording(
                client, server, wayland_sessions.RULES, Sandbox("work"), RealMachine()
            )
            with trio.move_on_after(float(os.environ.get("SECONDS_TO_RECORD", "5"))):
                await connection.run()
            await child.stop()
    out.write_bytes(wayland_sessions.pack(connection.chunks))


if __name__ == "__main__":
    trio.run(record, Path(sys.argv[1]), sys.argv[3:])
