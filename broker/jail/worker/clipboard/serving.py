"""In the worker: content that was given to its sandbox, served to who asks.

Nothing is kept: with the next selection, or withdrawn, its file is closed.

A client's descriptor stays the client's: O_NONBLOCK is of the open file, which
it shares with us and may change at any time.  So nothing here depends on it:
a pipe is filled by splice(2), whose SPLICE_F_NONBLOCK holds for that call
alone, a socket by send(2) with MSG_DONTWAIT.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import trio
from typing_extensions import override

from broker.core.clipboard.types import SECRET_HINT
from broker.core.errors import PeerError
from broker.core.limits import clipboard as limits
from broker.core.stderr_log import log_exception
from broker.ipc import clipboard as messages
from broker.ipc import sealed_memfd
from broker.jail.wayland.ports import ExportPort, Selection

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_SECRET = b"secret"
"""Content of SECRET_HINT that asks history managers to keep nothing."""


class ContentOwner(Protocol):
    """The owner of the content (``WorkerClipboard``)."""

    @property
    def serving(self) -> Serving:
        """The ``Serving`` that writes it to applications."""
        ...

    def held_ended(self, held: ServedContent) -> None:
        """Its file is closed."""
        ...


class Serving:
    """Writes of content to a sandbox's applications."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._now = 0

    def begin(self, nursery: trio.Nursery) -> None:
        """Serve from now on."""
        self._nursery = nursery

    def serve(self, fd: int, content: int, start: int, size: int) -> bool:
        """Write a part of a file into a descriptor; True: we own and close the descriptor."""
        # guard: number of serves
        if self._nursery is None or self._now >= limits.CLIPBOARD_SERVES:
            return False
        try:
            mine = os.dup(content)
        except OSError as error:  # no descriptor left: this one, and nothing else
            log_exception(error)
            return False
        self._now += 1
        self._nursery.start_soon(self._serve, fd, mine, start, size)
        return True

    def serve_secret(self, fd: int) -> bool:
        """Write the content of SECRET_HINT into a descriptor; True as for ``serve``."""
        try:
            content = sealed_memfd.sealed([_SECRET])
        except OSError as error:
            log_exception(error)
            return False
        try:
            return self.serve(fd, content, 0, len(_SECRET))
        finally:
            os.close(content)

    async def _serve(self, fd: int, content: int, start: int, size: int) -> None:
        """Write a content to a program's pipe or socket, and close it."""
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                await _fill_pipe(fd, content, start, size)
            else:
                await _fill_socket(fd, content, start, size)
        except (OSError, trio.TooSlowError):
            return  # the asking application has gone, or takes nothing
        finally:
            os.close(fd)
            os.close(content)
            self._now -= 1


async def _fill_pipe(fd: int, content: int, start: int, size: int) -> None:
    """Write all of the content to a pipe.

    Raises OSError, or TooSlowError when the reader takes none.
    """
    end = start + size
    while start < end:
        # guard: a reader that takes nothing has a deadline
        with trio.fail_after(limits.CLIPBOARD_SERVE_SECONDS):
            await trio.lowlevel.wait_writable(fd)
        most = min(limits.CLIPBOARD_READ_BYTES, end - start)
        try:
            # guard: a pipe that its client makes blocking
            done = os.splice(
                content, fd, most, offset_src=start, flags=os.SPLICE_F_NONBLOCK
            )
        except BlockingIOError:
            continue
        if not done:
            raise PeerError("the file of the content is truncated")
        start += done


async def _fill_socket(fd: int, content: int, start: int, size: int) -> None:
    """The same for a descriptor that is not a pipe."""
    with socket.socket(fileno=os.dup(fd)) as out:
        for data in sealed_memfd.pieces(content, start, size):
            with memoryview(data) as piece:
                await _send_all(out, piece)


async def _send_all(out: socket.socket, data: memoryview) -> None:
    """Send all data to a socket, with a deadline."""
    done = 0
    while done < len(data):
        with trio.fail_after(limits.CLIPBOARD_SERVE_SECONDS):
            await trio.lowlevel.wait_writable(out)
        try:
            done += out.send(data[done:], socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue


class ServedContent(Selection):
    """Content that we serve, under the types that its pieces have."""

    def __init__(
        self,
        owner: ContentOwner,
        transfer: int,
        pieces: list[messages.Piece],
        fd: int,
    ) -> None:
        self._owner = owner
        self.transfer = transfer
        self.withdrawn = False
        """Whether the supervisor itself has ended it."""
        self._fd = fd
        self._places: dict[bytes, tuple[int, int]] = {}
        at = 0
        for piece in pieces:
            for name in piece.names:
                self._places.setdefault(name.encode(), (at, piece.size))
            at += piece.size

    @property
    @override
    def mimes(self) -> Sequence[bytes]:
        return tuple(self._places)

    @override
    def send(self, mime: bytes, fd: int) -> bool:
        place = self._places.get(mime)
        if place is None or self._fd < 0:
            return False
        return self._owner.serving.serve(fd, self._fd, *place)

    @override
    def cancel(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._owner.held_ended(self)


class ToHost(ServedContent, ExportPort):
    """The same as the user's own selection, marked."""

    def __init__(
        self,
        owner: ContentOwner,
        order: messages.Export,
        fd: int,
        core: ClientState,
    ) -> None:
        super().__init__(owner, order.transfer, order.pieces, fd)
        self.core = core
        self.mark = order.mark.encode()
        self.echoed = trio.Event()

    @property
    @override
    def mimes(self) -> Sequence[bytes]:
        # The mark last: some keep only the first type of a selection.
        return (*super().mimes, SECRET_HINT.encode(), self.mark)

    @override
    def send(self, mime: bytes, fd: int) -> bool:
        if mime == SECRET_HINT.encode():
            return self._owner.serving.serve_secret(fd)
        return super().send(mime, fd)

    @override
    def taken(self) -> None:
        self.echoed.set()
