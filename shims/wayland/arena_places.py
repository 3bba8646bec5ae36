"""Places in the arena: who may write where, until the host has read it.

The arena is divided into chunks.  A stream fills one after the other, and gives a chunk
back when the host has acknowledged the last block that named a part of it.  Chunks that
came back last are used first, so a guest that draws little touches little memory.
"""

from __future__ import annotations

import collections
from typing import Deque, List, Optional, Tuple

CHUNK_BYTES = 1 << 20
"""As many as one block may name (WAYPIPE_ARENA_FILL_BYTES)."""
ROWS = 1024
"""As many as one block may name, with gaps between them (WAYPIPE_ARENA_ROWS)."""
WAIT_BYTES = 4 << 20
"""A stream with so many unacknowledged bytes waits for room: with fewer the host may
owe it no acknowledgement (WAYPIPE_UNACKNOWLEDGED_BYTES), so it does without an arena."""


class ArenaMemory:
    """The memory that this machine shares with its host."""

    def __init__(self, view: memoryview, base: int = 0) -> None:
        """``base``: where ``view`` begins in the host's file, in bytes."""
        self.view = view
        self.base = base
        self.free = list(range(len(view) // CHUNK_BYTES - 1, -1, -1))


class ArenaPlaces:
    """The places of one stream."""

    def __init__(self, memory: ArenaMemory) -> None:
        self._memory = memory
        self._chunk: Optional[int] = None
        self._used = 0
        self._last = 0
        """Number of the last block that names a part of the chunk."""
        self._full: Deque[Tuple[int, int]] = collections.deque()
        self._acknowledged = 0

    @property
    def worth_waiting(self) -> bool:
        """Return whether so much is unread that the host will acknowledge some."""
        return len(self._full) * CHUNK_BYTES >= WAIT_BYTES

    def room(self, size: int) -> Optional[memoryview]:
        """Return the next ``size`` bytes to write to; None when no chunk is free.

        ``named`` takes them: until then the next call returns the same ones.
        """
        if self._chunk is not None and self._used + size > CHUNK_BYTES:
            if self._last <= self._acknowledged:
                self._used = 0
            else:
                self._full.append((self._chunk, self._last))
                self._chunk = None
        if self._chunk is None:
            if not self._memory.free:
                return None
            self._chunk, self._used, self._last = self._memory.free.pop(), 0, 0
        begin = self._chunk * CHUNK_BYTES + self._used
        return self._memory.view[begin : begin + size]

    def named(self, size: int, number: int) -> int:
        """Name the reserved block by a number; return its base for the host."""
        assert self._chunk is not None
        begin = self._chunk * CHUNK_BYTES + self._used
        # Whole cache lines, so that no copy shares one.
        self._used += size + 63 & ~63
        self._last = number
        return self._memory.base + begin

    def acknowledged(self, count: int) -> None:
        """The host has read so many blocks."""
        self._acknowledged = count
        while self._full and self._full[0][1] <= count:
            self._memory.free.append(self._full.popleft()[0])

    def close(self) -> None:
        """Free all places: the host's end of the stream is gone."""
        chunks: List[int] = [chunk for chunk, _ in self._full]
        if self._chunk is not None:
            chunks.append(self._chunk)
        self._memory.free += chunks
        self._full.clear()
        self._chunk = None
