"""The model compositor at a real socket: answers, checks, shows nothing.

For tests that need many connections or a compositor that misbehaves; what
people see is tested on real ones.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.kit.wayland.model import Model


class ModelCompositor:
    """``ends`` are its ends of the connections, ``models`` what each has seen."""

    def __init__(
        self,
        offers: list[tuple[str, int]] | None = None,
        kind: Callable[..., Model] = Model,
    ) -> None:
        self.offers, self.kind = offers, kind
        self.ends: list[socket.socket] = []
        self.models: list[Model] = []

    def live(self) -> list[socket.socket]:
        """Its ends of the connections that there are now."""
        return [end for end in self.ends if end.fileno() >= 0]

    async def serve(self, listener: socket.socket) -> None:
        listener.settimeout(0)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                end, _ = listener.accept()
                end.settimeout(0)
                model = self.kind(self.offers)
                self.ends.append(end)
                self.models.append(model)
                nursery.start_soon(self._talk, end, model)

    async def _talk(self, end: socket.socket, model: Model) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(end)
                data, fds, _, _ = socket.recv_fds(end, 65536, 64)
                for fd in fds:
                    os.close(fd)
                if not data:
                    return
                model.feed(data, len(fds))
                said, model.out = bytes(model.out), bytearray()
                while said:
                    try:
                        said = said[end.send(said) :]
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(end)
        except OSError:
            return  # the client has gone
        finally:
            end.close()


@asynccontextmanager
async def model_compositor(
    path: Path,
    offers: list[tuple[str, int]] | None = None,
    kind: Callable[..., Model] = Model,
) -> AsyncIterator[ModelCompositor]:
    """Listen at ``path`` for the length of the block."""
    made = ModelCompositor(offers, kind)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(256)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.serve, listener)
            yield made
            nursery.cancel_scope.cancel()
