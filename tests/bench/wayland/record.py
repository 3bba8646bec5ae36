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

from broker.launch.compositor import connect_compositor, display_path
from broker.launch.spawn import spawn
from broker.session.wayland_machine import RealMachine
from broker.session.wayland_shell import Connection
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


def _display() -> Path:
    path = display_path()
    assert path is not None, "no WAYLAND_DISPLAY"
    return path


async def record(out: Path, argv: list[str]) -> None:
    """Write the largest of the program's connections."""
    seconds = float(os.environ.get("SECONDS_TO_RECORD", "5"))
    made: list[Recording] = []
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as door:
        path = Path(name) / "display"
        door.bind(str(path))
        door.listen()
        door.settimeout(0)
        child = spawn(argv, env={**os.environ, "WAYLAND_DISPLAY": str(path)})

        async def one(client: socket.socket) -> None:
            with client, connect_compositor(_display()) as server:
                made.append(
                    Recording(
                        client,
                        server,
                        wayland_sessions.RULES,
                        Sandbox("work"),
                        RealMachine(),
                    )
                )
                await made[-1].run()

        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.lowlevel.wait_readable(door)
                    nursery.start_soon(one, door.accept()[0])
        await child.stop()
    largest = max(made, key=lambda c: sum(len(data) for _, data, _ in c.chunks))
    out.write_bytes(wayland_sessions.pack(largest.chunks))


if __name__ == "__main__":
    trio.run(record, Path(sys.argv[1]), sys.argv[3:])
