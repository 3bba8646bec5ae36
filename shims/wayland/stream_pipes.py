"""Pipes of pastes and drops: their bytes go through the stream in pieces."""

from __future__ import annotations

import os
import selectors
import struct
from typing import TYPE_CHECKING, Callable, Dict

from shims.wayland.stream_blocks import (
    OPEN_IR_PIPE,
    PIPE_SHUTDOWN_R,
    PIPE_SHUTDOWN_W,
    PIPE_TRANSFER,
)

if TYPE_CHECKING:
    from shims.wayland.ready_loop import ReadyLoop

PIPE_BYTES = 32768
PIPE_QUEUE_BYTES = 4 << 20
"""Bytes that wait for a program; a paste that it takes more slowly is dropped."""


class StreamPipes:
    """The pipes of one stream."""

    def __init__(self, loop: "ReadyLoop", say: Callable[..., None]) -> None:
        """Hold the pipes of one program; ``say`` queues a block for the host."""
        self._loop, self._say = loop, say
        self._sources: Dict[int, int] = {}
        """Pipes that a program writes into, by the host's id."""
        self._sinks: Dict[int, int] = {}
        """Those that a program reads from, by ours."""
        self._waiting: Dict[int, bytearray] = {}
        self._ended: "set[int]" = set()

    def close(self) -> None:
        """End them all."""
        for rid in [*self._sources]:
            self._end_source(rid)
        for rid in [*self._sinks]:
            self._end_sink(rid)

    def to_program(self, rid: int, fd: int) -> None:
        """A program waits for what the host reads."""
        os.set_blocking(fd, False)
        self._sinks[rid], self._waiting[rid] = fd, bytearray()
        self._say(OPEN_IR_PIPE, struct.pack("<i", rid))

    def from_program(self, rid: int) -> int:
        """Make a pipe for what a program writes; return its end."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self._sources[rid] = reading
        self._loop.watch(reading, selectors.EVENT_READ, lambda _: self._read(rid))
        return writing

    def _read(self, rid: int) -> None:
        """Send the bytes of a pipe to the host."""
        try:
            data = os.read(self._sources[rid], PIPE_BYTES)
        except BlockingIOError:
            return
        if data:
            self._say(PIPE_TRANSFER, struct.pack("<i", rid), data)
        else:
            self._say(PIPE_SHUTDOWN_W, struct.pack("<i", rid))
            self._end_source(rid)

    def _end_source(self, rid: int) -> None:
        fd = self._sources.pop(rid)
        self._loop.forget(fd)
        os.close(fd)

    def take(self, rid: int, data: bytes) -> None:
        """Write bytes from the host into a program's pipe; close a slow pipe."""
        waiting = self._waiting.get(rid)
        if waiting is None:
            return
        waiting += data
        if len(waiting) > PIPE_QUEUE_BYTES:
            self._drop(rid)
        else:
            self._write(rid)

    def shut(self, rid: int) -> None:
        """Close a pipe whose host side has ended."""
        if rid in self._sources:
            self._end_source(rid)
        elif rid in self._sinks:
            self._ended.add(rid)
            self._write(rid)

    def _write(self, rid: int) -> None:
        """Write the host's bytes into a pipe."""
        fd, waiting = self._sinks[rid], self._waiting[rid]
        try:
            while waiting:
                del waiting[: os.write(fd, waiting)]
        except BlockingIOError:
            self._loop.watch(fd, selectors.EVENT_WRITE, lambda _: self._write(rid))
            return
        except OSError:
            self._drop(rid)
            return
        self._loop.forget(fd)
        if rid in self._ended:
            self._end_sink(rid)

    def _drop(self, rid: int) -> None:
        self._say(PIPE_SHUTDOWN_R, struct.pack("<i", rid))
        self._end_sink(rid)

    def _end_sink(self, rid: int) -> None:
        fd = self._sinks.pop(rid)
        self._waiting.pop(rid)
        self._ended.discard(rid)
        self._loop.forget(fd)
        os.close(fd)
