"""Our end of the wire with nothing after it: what decoding alone costs.

    python -m tests.bench.waypipe.plain PATH

Messages are passed to the compositor as they come, descriptors with them, which is
what the real client does.  Only for the benchmark: nothing is checked, files
live as long as their stream, and of the compositor's descriptors a keyboard's
keymap is all that it knows.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from broker.core.names import SandboxName
from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.compositor_connection import connect_compositor
from broker.helpers.compositor_socket import display_path
from broker.jail.wayland.protocol.wire import Outgoing
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker.wayland.waypipe_connection import StreamConnection
from broker.jail.worker.wayland.waypipe_memory import StreamFile, StreamMachine
from tests.kit.accept_loop import serve
from tests.kit.wayland.client import HEADER
from tests.kit.wayland.service import WaylandService, serve_client

_KEYMAP = (0, 16)
"""Opcode and size of wl_keyboard.keymap."""


class Nothing:
    """In a filter's place."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.up, self.down = Outgoing(), Outgoing()
        self.ready, self.paused, self.unclaimed = True, False, 0
        self.fault: Exception | None = None
        self.messages = self.pixels = 0
        self.clock_shift = self.due = None
        self._files: list[StreamFile] = []
        self._rest = b""

    def from_client(self, data: bytes, fds: Sequence[object], now: float) -> None:
        """Pass messages on."""
        del now
        out = []
        for fd in fds:
            if isinstance(fd, StreamFile):
                self._files.append(fd)
                out.append(fd.export())
            else:
                assert isinstance(fd, int)
                out.append(fd)
        self.up.add(data, out)

    def from_server(self, data: bytes, fds: Sequence[int], now: float) -> None:
        """Pass whole messages on, a keymap with its descriptor."""
        del now
        data = self._rest + data
        at, left = 0, list(fds)
        while at + 8 <= len(data):
            _, opcode, size = HEADER.unpack_from(data, at)
            if at + size > len(data):
                break
            mine = [left.pop(0)] if left and (opcode, size) == _KEYMAP else []
            self.down.add(data[at : at + size], mine)
            at += size
        self._rest = data[at:]
        assert not left, "a descriptor that is no keymap"

    def fail(self, error: Exception) -> None:
        """Remember why it is over."""
        self.fault = error

    def close(self) -> None:
        """Give everything back."""
        for fd in (*self.up.drain_fds(), *self.down.drain_fds()):
            os.close(fd)
        for file in self._files:
            file.give_up()


class PlainConnection(StreamConnection):
    """A stream with nothing after it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.core.close()
        nothing: Any = Nothing(self.core.sandbox)
        self.core = nothing
        self._ready.set()  # a filter would have asked for the globals first


async def main(listen: Path) -> None:
    """Serve streams until it is ended."""
    rules = WindowRules(SandboxName("plain"))
    display = display_path()
    assert display is not None
    service = WaylandService(
        rules,
        Sandbox(rules.name),
        StreamMachine(),
        partial(connect_compositor, display),
        lambda error: print(f"{type(error).__name__}: {error}", file=sys.stderr),
        make=PlainConnection,
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(listen))
        listener.listen()
        await serve(listener, partial(serve_client, service=service))


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
