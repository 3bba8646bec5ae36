"""Files of the application as they are mirrored here: open, grow, write.

A diff is what waypipe sends when an application has drawn: spans of changed
words, each ``u32 from, u32 to`` and the words, then the last bytes of a file
whose size is no multiple of four.  Each span is one copy from the receive
buffer into the mapping.
"""

from __future__ import annotations

import struct
from itertools import repeat

from broker.core import limits
from broker.core.errors import PeerError
from broker.waypipe.ids import RemoteIds
from broker.waypipe.ports import File, Memory

_TWO = struct.Struct("<iI")
_THREE = struct.Struct("<iII")
_SPAN = struct.Struct("<II")
_CHECK = limits.WAYPIPE_SPANS_PER_CHECK


class Files:
    """Files by their remote id.

    There is no block that closes a file: it is over when the filter needs it
    no more (``File.closed``).  What still comes for it then is late, not wrong.
    """

    def __init__(self, memory: Memory, ids: RemoteIds) -> None:
        self._memory = memory
        self._ids = ids
        self._open: dict[int, File] = {}
        self._waiting: set[int] = set()
        """Opened, not yet given to a message."""

    def __len__(self) -> int:
        self._sweep()
        return len(self._open)

    def close(self) -> None:
        """The stream is over: nothing more is written to any file."""
        for rid in self._waiting:
            self._memory.discard(self._open[rid])
        for file in self._open.values():
            file.close()
        self._open.clear()
        self._waiting.clear()

    def open(self, body: memoryview) -> None:
        """OpenFile: a file of zeros."""
        rid, size = _TWO.unpack_from(body)
        self._ids.use(rid)
        if len(self._open) >= limits.WAYPIPE_FILES:
            self._sweep()
            if len(self._open) >= limits.WAYPIPE_FILES:
                raise PeerError(f"more than {limits.WAYPIPE_FILES} files are open")
        self._declare(size)
        try:
            self._open[rid] = self._memory.file(size)
        except ValueError as error:
            raise PeerError(f"a file of {size} bytes is refused: {error}") from error
        self._waiting.add(rid)

    def extend(self, body: memoryview) -> None:
        """ExtendFile: files only grow."""
        rid, size = _TWO.unpack_from(body)
        file = self._find(rid)
        if file is None:
            return
        if size < len(file.view):
            raise PeerError(f"a file of {len(file.view)} bytes shrinks to {size}")
        self._declare(size - len(file.view))
        try:
            file.grow(size)
        except ValueError as error:
            raise PeerError(f"a file may not grow to {size} bytes: {error}") from error

    def take(self, rid: int) -> File | None:
        """The file that a message gets, once; None when the id is no file's."""
        if rid not in self._waiting:
            return None
        self._waiting.discard(rid)
        return self._open[rid]

    def fill(self, body: memoryview) -> None:
        """BufferFill: bytes at a place."""
        rid, start, end = _THREE.unpack_from(body)
        file = self._find(rid)
        if file is None:
            return
        view, data = file.view, body[12:]
        if not start <= end <= len(view) or end - start != len(data):
            raise PeerError(
                f"a fill of {start} to {end} with {len(data)} bytes in a file of {len(view)}"
            )
        view[start:end] = data
        _account(file)

    def diff(self, body: memoryview) -> None:
        """BufferDiff: spans of words, and the file's last bytes."""
        rid, size, trailing = _THREE.unpack_from(body)
        file = self._find(rid)
        if file is None:
            return
        view = file.view
        if size & 3 or size + trailing != len(body) - 12 or trailing > len(view):
            raise PeerError(
                f"a diff of {size} and {trailing} bytes in a block of {len(body) - 12} "
                f"for a file of {len(view)}"
            )
        _spans(file, body[12 : 12 + size])
        if trailing:
            view[len(view) - trailing :] = body[12 + size :]
        _account(file)

    def _find(self, rid: int) -> File | None:
        file = self._open.get(rid)
        if file is not None:
            if not file.closed:
                return file
            del self._open[rid]
        elif not self._ids.known(rid):
            raise PeerError(f"bytes for the file {rid}, which was never opened")
        return None

    def _sweep(self) -> None:
        for rid in [rid for rid, file in self._open.items() if file.closed]:
            del self._open[rid]

    def _declare(self, more: int) -> None:
        """Check a file's declared size, and that of all together."""
        if more > limits.WAYPIPE_POOL_BYTES:
            raise PeerError(
                f"a file of {more} bytes, where {limits.WAYPIPE_POOL_BYTES} may be"
            )
        if self._declared() + more > limits.WAYPIPE_DECLARED_BYTES:
            self._sweep()
            if self._declared() + more > limits.WAYPIPE_DECLARED_BYTES:
                raise PeerError(
                    f"files of more than {limits.WAYPIPE_DECLARED_BYTES} bytes together"
                )

    def _declared(self) -> int:
        return sum(len(file.view) for file in self._open.values() if not file.closed)


def _account(file: File) -> None:
    try:
        file.account()
    except ValueError as error:
        raise PeerError(f"a file takes too much memory: {error}") from error


def _spans(file: File, diff: memoryview) -> None:
    """Copy every span.  Hot: about 0.2 us a span and a memcpy."""
    view = file.view
    words = len(view) >> 2
    size = len(diff)
    unpack = _SPAN.unpack_from
    position = 0
    while position < size:
        for _ in repeat(None, _CHECK):
            if position + 8 > size:
                raise PeerError("a diff ends inside a span")
            start, end = unpack(diff, position)
            position += 8
            stop = position + (end - start << 2)
            if not start < end <= words or stop > size:
                raise PeerError(
                    f"a span of the words {start} to {end} with {size - position} bytes "
                    f"left, in a file of {words} words"
                )
            view[start << 2 : end << 2] = diff[position:stop]
            position = stop
            if position == size:
                return
        _account(file)
