"""Pipes and copy buffers for directions that need one just now.

A direction holds a pipe only while bytes are in it, so few pipes serve many
streams.  A pipe goes back **only when it is empty**: a pipe that still holds a
stream's bytes would hand them to the next stream, perhaps another sandbox's.

Only the pump runs it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from broker.core.limits import relay as relay_limits


@dataclass(eq=False, slots=True)
class Pipe:
    """A pipe and the bytes in it; ``held`` is kept by the code that splices."""

    read: int
    write: int
    held: int = 0

    def close(self) -> None:
        """Close both ends; its content is lost."""
        os.close(self.read)
        os.close(self.write)


class PipePool:
    """At most ``size`` empty pipes kept for the next user."""

    def __init__(self, size: int = relay_limits.RELAY_PIPES_POOLED) -> None:
        self._size = size
        self._free: list[Pipe] = []

    def __len__(self) -> int:
        return len(self._free)

    def take(self) -> Pipe:
        """Return an empty pipe.  Raises OSError (EMFILE, ENFILE) when there is none."""
        if self._free:
            return self._free.pop()
        # A user beyond pipe-user-pages-soft gets an 8 KiB pipe here instead of
        # an error (pipe(7)); slower, and otherwise all the same.
        return Pipe(*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))

    def give(self, pipe: Pipe) -> None:
        """Take a pipe back; a dirty one is closed instead of kept."""
        if pipe.held or len(self._free) >= self._size:
            pipe.close()
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Close all kept pipes."""
        while self._free:
            self._free.pop().close()


class BufferPool:
    """Copy buffers of ``RELAY_COPY_BYTES`` each.

    A buffer that comes back still has old bytes in it; that is not a leak, as a
    reader is only ever given what ``readv`` has just written.
    """

    def __init__(self, size: int = relay_limits.RELAY_COPY_BUFFERS_POOLED) -> None:
        self._size = size
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """Return a buffer."""
        if self._free:
            return self._free.pop()
        return memoryview(bytearray(relay_limits.RELAY_COPY_BYTES))

    def give(self, buffer: memoryview) -> None:
        """Take a buffer back."""
        if len(self._free) < self._size:
            self._free.append(buffer)
