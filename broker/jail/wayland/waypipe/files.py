"""Files of the application as they are mirrored here: open, grow, write.

A diff is what waypipe sends when an application has drawn: spans of changed
words, each ``u32 from, u32 to`` and the words, then the last bytes of a file
whose size is not a multiple of four.  Each span is one copy from the receive
buffer into the mapping.
"""

from __future__ import annotations

import struct

from broker.core.errors import PeerError
from broker.core.limits import waypipe as waypipe_limits
from broker.jail.wayland.waypipe.ids import RemoteIds
from broker.jail.wayland.waypipe.ports import Arena, Memory, WaypipeFile

_TWO = struct.Struct("<iI")
_THREE = struct.Struct("<iII")
_RECTANGLE = struct.Struct("<iIIIII")
_CHECK = waypipe_limits.WAYPIPE_SPANS_PER_CHECK
_RUN = 16
"""Spans of one word in a row, after which more of them are expected."""


class RemoteFiles:
    """Files by their remote id.

    There is no block that closes a file: it is over when the filter needs it
    no more (``File.closed``).  What still comes for it then is late, not wrong.
    ``spans`` counts those of all diffs so far.
    """

    def __init__(self, memory: Memory, ids: RemoteIds) -> None:
        self._memory = memory
        self._ids = ids
        self.spans = 0
        self._open: dict[int, WaypipeFile] = {}
        self._waiting: set[int] = set()
        """Opened, not yet given to a message."""

    def __len__(self) -> int:
        self._sweep()
        return len(self._open)

    def close(self) -> None:
        """Close all mirrored files of an ended stream."""
        for rid in self._waiting:
            self._memory.discard(self._open[rid])
        for file in self._open.values():
            file.close()
        self._open.clear()
        self._waiting.clear()

    def open(self, body: memoryview) -> None:
        """Handle OpenFile: create a zero-filled mirror of a file.  Raises PeerError."""
        rid, size = _TWO.unpack_from(body)
        self._ids.use(rid)
        if len(self._open) >= waypipe_limits.WAYPIPE_FILES:
            self._sweep()
            # guard: number of files
            if len(self._open) >= waypipe_limits.WAYPIPE_FILES:
                raise PeerError(
                    f"more than {waypipe_limits.WAYPIPE_FILES} files are open"
                )
        self._check_declared(size)
        try:
            self._open[rid] = self._memory.file(size)
        except ValueError as error:
            raise PeerError(f"cannot create a file of {size} bytes: {error}") from error
        self._waiting.add(rid)

    def extend(self, body: memoryview) -> None:
        """Handle ExtendFile: grow a mirrored file; never shrinks.  Raises PeerError."""
        rid, size = _TWO.unpack_from(body)
        file = self._find(rid)
        if file is None:
            return
        # guard: files only grow
        if size < len(file.view):
            raise PeerError(f"a file of {len(file.view)} bytes would shrink to {size}")
        self._check_declared(size - len(file.view))
        try:
            file.grow(size)
        except ValueError as error:
            raise PeerError(f"cannot grow a file to {size} bytes: {error}") from error

    def take(self, rid: int) -> WaypipeFile | None:
        """Return the file that a message gets, once.

        None when the id is not a file's.
        """
        if rid not in self._waiting:
            return None
        # guard: a file for one message
        self._waiting.discard(rid)
        return self._open[rid]

    def fill(self, body: memoryview) -> None:
        """Handle BufferFill: write bytes into a mirrored file.  Raises PeerError."""
        rid, start, end = _THREE.unpack_from(body)
        file = self._find(rid)
        if file is None:
            return
        view, data = file.view, body[12:]
        # guard: fills inside their file
        if not start <= end <= len(view) or end - start != len(data):
            raise PeerError(
                f"invalid fill of bytes {start} to {end} with {len(data)} bytes in a file of "
                f"{len(view)}"
            )
        view[start:end] = data
        _account(file)

    def diff(self, body: memoryview) -> None:
        """Handle BufferDiff: write spans of words, and the last bytes.

        Raises PeerError.
        """
        rid, size, trailing = _THREE.unpack_from(body)
        file = self._find(rid)
        if file is None:
            return
        view = file.view
        # guard: diffs inside their block
        if size & 3 or size + trailing != len(body) - 12 or trailing > len(view):
            raise PeerError(
                f"invalid diff of {size} and {trailing} bytes in a block of {len(body) - 12} for "
                f"a file of {len(view)}"
            )
        self.spans += _spans(file, body[12 : 12 + size])
        if trailing:
            view[len(view) - trailing :] = body[12 + size :]
        _account(file)

    def copy(self, body: memoryview, arena: Arena | None) -> int:
        """Handle ArenaFill: copy rows from the sandbox's arena; return how many bytes.

        Raises PeerError.
        """
        rid, start, stride, width, rows, base = _RECTANGLE.unpack(body)
        # guard: an arena that was announced
        if arena is None:
            raise PeerError("received a copy from an arena that was not announced")
        size: int = width * rows
        # guard: copies are short
        if not 0 < size <= waypipe_limits.WAYPIPE_ARENA_FILL_BYTES:
            raise PeerError(
                f"a copy has {size} bytes; allowed are 1 to "
                f"{waypipe_limits.WAYPIPE_ARENA_FILL_BYTES}"
            )
        # guard: copies inside their arena
        if base + size > arena.size:
            raise PeerError(f"{size} bytes at {base} exceed the arena of {arena.size}")
        file = self._find(rid)
        if file is None:
            return 0
        # guard: copies inside their file
        if stride < width or start + stride * (rows - 1) + width > len(file.view):
            raise PeerError(
                f"a copy of {rows} rows of {width} bytes with the stride {stride} at {start} "
                f"extends beyond the file of {len(file.view)}"
            )
        if stride == width:
            stride, width, rows = size, size, 1
        # Each row may touch a page, so what a copy takes unseen has a bound.
        # guard: copies have few rows
        if rows > waypipe_limits.WAYPIPE_ARENA_ROWS:
            raise PeerError(
                f"a copy has {rows} rows; the limit is {waypipe_limits.WAYPIPE_ARENA_ROWS}"
            )
        self.spans += rows + size // waypipe_limits.WAYPIPE_ARENA_SPAN_BYTES
        view, ends = file.view, start + rows * stride
        parts = [view[at : at + width] for at in range(start, ends, stride)]
        try:
            # All by one system call; they are without gaps in the arena.
            arena.read(parts, base)
        except ValueError as error:
            raise PeerError(f"cannot read the arena: {error}") from error
        finally:
            # An error of this frame would keep them, and a file that is closed has none.
            # guard: an error keeps no part of a file
            for part in parts:
                part.release()
        _account(file)
        return size

    def _find(self, rid: int) -> WaypipeFile | None:
        """Find an open file by its id.  Raises PeerError."""
        file = self._open.get(rid)
        if file is not None:
            if not file.closed:
                return file
            del self._open[rid]
        # guard: files that were opened
        elif not self._ids.known(rid):
            raise PeerError(f"received data for the file {rid}, which was never opened")
        return None

    def _sweep(self) -> None:
        for rid in [rid for rid, file in self._open.items() if file.closed]:
            del self._open[rid]

    def _check_declared(self, more: int) -> None:
        """Raise PeerError if a file's declared size, or the sum of all, is too large."""
        # guard: a file's size
        if more > waypipe_limits.WAYPIPE_POOL_BYTES:
            raise PeerError(
                f"a file grows by {more} bytes; the limit is {waypipe_limits.WAYPIPE_POOL_BYTES}"
            )
        if self._declared() + more > waypipe_limits.WAYPIPE_DECLARED_BYTES:
            self._sweep()
            # guard: sizes together
            if self._declared() + more > waypipe_limits.WAYPIPE_DECLARED_BYTES:
                raise PeerError(
                    f"the files have more than {waypipe_limits.WAYPIPE_DECLARED_BYTES} bytes"
                )

    def _declared(self) -> int:
        return sum(len(file.view) for file in self._open.values() if not file.closed)


def _account(file: WaypipeFile) -> None:
    try:
        file.account()
    except ValueError as error:
        raise PeerError(f"a file uses too much memory: {error}") from error


# Waypipe's wire is decoded in the worker. The worker has our own end of the wire
# (waypipe.md). Upstream's client in a jail or in Podman was a choice once (`display =
# "waypipe-client"`) and has been removed: a third way, with a foreign parser, to do
# what the default does with less. Spans of a diff stay in Python. The worst case, one
# word in 32 changing 60 times a second, is copied in runs: 0.07 µs a word instead of
# 0.2. A compiled loop takes 0.003 (`python -m tests.bench.waypipe` prints both); that
# what reads hostile bytes is memory safe is worth the rest, and a stream may send two
# million spans a second before it has to wait. numpy was tried, too: quicker for equal
# spans, fifty times slower for mixed ones, and a large library in every worker.
# Acknowledgements are checked although we keep nothing that could be sent again: a
# sender that acknowledges data that it cannot have received is not waypipe. An
# application that just exits leaves waypipe an error code in its last block; it is not
# a fault of the stream. A paste whose reader is slower than half a MiB a second is
# dropped: one stream carries all of an application, and its windows would stall.
def _spans(file: WaypipeFile, diff: memoryview) -> int:
    """Copy every span of a diff into the file; return how many.

    Hot: 0.2 us a span and a memcpy, 0.07 us in runs of single words.  Both
    sides are seen as words, so that an index beyond the file is an IndexError
    of Python's and never a place in memory.
    """
    words = len(file.view) >> 2
    with file.view[: words << 2].cast("I") as into, diff.cast("I") as data:
        size = len(data)
        position = spans = 0
        while position < size:
            position, more = _some_spans(into, data, position)
            spans += more
            # guard: memory inside a long diff
            if position < size:
                _account(file)
    return spans


def _some_spans(into: memoryview, data: memoryview, position: int) -> tuple[int, int]:
    """Copy the next spans, at most ``_CHECK``; where the others begin, and how many."""
    words, size = len(into), len(data)
    single = done = 0
    try:
        for done in range(_CHECK):
            start, end = data[position], data[position + 1]
            position += 2
            stop = position + end - start
            # guard: spans inside file and block
            if not start < end <= words or stop > size:
                raise PeerError(
                    f"invalid span of words {start} to {end} with {size - position} words left, "
                    f"in a file of {words} words"
                )
            if stop == position + 1:
                into[start] = data[position]
                position = stop
                single += 1
                if single == _RUN:
                    after = _single_words(into, data, position)
                    return after, done + 1 + (after - position) // 3
            else:
                single = 0
                into[start:end] = data[position:stop]
                position = stop
    except IndexError:
        # Asked for where a diff has its end, once, and not before each span.
        # guard: a diff ends with a span
        if position != size:
            raise PeerError("a diff ends inside a span") from None
        return position, done
    return position, _CHECK


def _single_words(into: memoryview, data: memoryview, position: int) -> int:
    """Copy spans of one word as long as no other comes; returns where they end.

    A comb of such is the worst that a picture can do: three words, looked at
    together, for each that changes.  The examined size doubles as long as it
    goes well, so that no mixture makes us look at much in vain.
    """
    count = _RUN
    while count < _CHECK:
        spans = data[position : position + 3 * count].tolist()
        copied = _copy_words(into, spans)
        position += 3 * copied
        if copied < count:
            break
        count *= 2
    return position


def _copy_words(into: memoryview, spans: list[int]) -> int:
    """Copy words of a diff into a file's memory."""
    copied = start = 0
    try:
        # Unequal when the diff ends: the rest is for the other loop.
        for start, end, word in zip(
            spans[0::3], spans[1::3], spans[2::3], strict=False
        ):
            if end != start + 1:
                break
            into[start] = word
            copied += 1
    except IndexError:
        raise PeerError(
            f"invalid span of one word at {start} in a file of {len(into)} words"
        ) from None
    return copied
