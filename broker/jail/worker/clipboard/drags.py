"""In the worker: drags between its sandbox and others, as the supervisor orders.

Observations of the filters are reported: that an application drags, where
a drag of another sandbox is and was dropped.  The numbers are ours and serve only
this.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from broker.core.clipboard.types import dragged_files, kind_of, names_files
from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as messages
from broker.jail.wayland.handlers import foreign_drags
from broker.jail.wayland.ports import DragPort
from broker.jail.worker.clipboard.serving import ServedContent, Serving
from broker.wire import fdpass

if TYPE_CHECKING:
    from broker.jail.wayland.handlers.foreign_drags import Over
    from broker.jail.wayland.handlers.selection import DataSource
    from broker.jail.wayland.sandbox import Sandbox

_GONE = "the target window was closed or has another drag"


@dataclass(frozen=True)
class Origin:
    """The source whose types were reported: no other may be read."""

    mimes: Sequence[bytes]
    send: Callable[[bytes, int], bool]
    valid: Callable[[], bool]


class WorkerDrags(DragPort):
    """Reports drags to the supervisor, and carries out its orders about them."""

    def __init__(
        self,
        sandbox: Sandbox,
        say: Callable[[messages.FromWorker], None],
        serving: Serving,
    ) -> None:
        self._sandbox = sandbox
        self._say = say
        self._serving = serving
        self._cross = False
        self._outward: frozenset[str] = frozenset()
        self._numbers = 0
        self._overs: OrderedDict[int, Over] = OrderedDict()
        self._given: dict[int, Over] = {}
        """By the supervisor's number of the transfer."""
        self._wanted: dict[int, int] = {}
        """Descriptors of the asking clients, by the number of the request."""

    # -- what the filters see ------------------------------------------------------------

    @override
    def started(self, source: DataSource) -> None:
        if self._cross:
            self._say(messages.DragStarted(_mark(source)))

    @override
    def performed(self, source: DataSource) -> None:
        if self._cross and source.drag is not None:
            self._say(messages.DragPerformed(_mark(source)))

    @override
    def ended(self, source: DataSource) -> None:
        if self._cross and source.drag is not None:
            self._say(messages.DragEnded(_mark(source)))

    @override
    def outward(self, source: DataSource) -> Sequence[bytes]:
        """Return the types of a drag that may leave the sandbox."""
        types = [mime.decode("utf-8", "replace") for mime in source.mimes]
        # guard: files that are dragged out
        if not self._cross or names_files(types):  # the text is the file's name, too
            return ()
        # guard: types that go out
        return [m for m in source.mimes if _kind(m) in self._outward]

    @override
    def wanted(self, source: DataSource, mime: bytes, fd: int) -> bool:
        """Ask the viewer for a drag's content; False: too many wait."""
        if len(self._wanted) >= limits.CLIPBOARD_SERVES:
            return False
        number = self._number()
        self._wanted[number] = fd
        self._say(messages.DragWantedMessage(number, _mark(source), mime.decode()))
        return True

    @override
    def over(self, over: Over) -> None:
        """Tell the viewer that a foreign drag is over a window here."""
        types = [mime.decode("utf-8", "replace") for mime in over.host.mimes]
        # Of another sandbox's drag the mark is all that is known here.
        files = "" if over.mark else dragged_files(types)
        if not self._cross and not files:
            self._say(messages.ForeignDrag())
            return
        number = self._number()
        self._overs[number] = over
        while len(self._overs) > limits.CLIPBOARD_DRAGS:
            _, oldest = self._overs.popitem(last=False)
            foreign_drags.end(oldest, finished=False)
        self._say(messages.DragOverMessage(number, over.mark.decode(), files))

    @override
    def dropped(self, over: Over) -> None:
        number = next((n for n, known in self._overs.items() if known is over), None)
        if number is not None:
            self._say(messages.DragDropped(number))

    def untold(self, message: messages.FromWorker) -> None:
        """End the drag of a message that could not be queued."""
        match message:
            case messages.DragWantedMessage(number) | messages.DragDropped(number):
                self._end(number, finished=False)
            case _:
                pass

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # -- orders ----------------------------------------------------------------------------

    def obey(self, order: messages.ToWorker, fds: Sequence[int]) -> None:
        """Carry out an order of the viewer about drags; closes the descriptors."""
        match order:
            case messages.DragsMessage(cross, outward):
                self._cross, self._outward = cross, frozenset(outward)
            case messages.AcceptDrag(number) if number in self._overs:
                foreign_drags.accept(self._overs[number])
            case messages.EndDrag(number, finished):
                self._end(number, finished=finished)
            case messages.Serve(number, size):
                fd = self._wanted.pop(number, -1)
                if fd >= 0 and not self._serving.serve(fd, fds[0], 0, size):
                    os.close(fd)
            case _:
                pass  # a drag that is gone already
        fdpass.close_all(fds)

    def _end(self, number: int, *, finished: bool) -> None:
        """End a drag: its pipe, and its window's offer."""
        fd = self._wanted.pop(number, -1)
        if fd >= 0:
            os.close(fd)
        over = self._overs.get(number)
        if over is not None:
            foreign_drags.end(over, finished=finished)
            if not finished:
                del self._overs[number]

    def origin(self, mark: str, number: int) -> Origin | None:
        """Return the content of a drag of an application's, or dropped on one."""
        if number:
            over = self._overs.get(number)
            if over is None or not over.dropped:
                return None
            return Origin(over.host.mimes, over.read, lambda: over.readable)
        key = mark.encode()
        source = self._sandbox.drags.get(key)
        if source is None:
            return None
        # guard: a dragged source to the end
        return Origin(
            tuple(source.mimes),
            source.send,
            lambda: self._sandbox.drags.get(key) is source and not source.dead,
        )

    def give(self, number: int, held: ServedContent) -> None:
        """Give dropped content to the window under the pointer, or report why not."""
        over = self._overs.pop(number, None)
        if over is not None and over.dropped and foreign_drags.give(over, held):
            self._given[held.transfer] = over
            return
        held.withdrawn = True  # the refusal reports that
        held.cancel()
        self._say(messages.OfferRefused(held.transfer, _GONE))

    def given_ended(self, held: ServedContent) -> None:
        """Its client has taken it, or never will."""
        self._given.pop(held.transfer, None)

    def withdraw(self, transfer: int) -> None:
        """Withdraw content of a drop, at the order of the viewer."""
        over = self._given.pop(transfer, None)
        if over is None:
            return
        held = over.offer.source if over.offer is not None else None
        if isinstance(held, ServedContent):
            held.withdrawn = True
        foreign_drags.withdraw(over)


def _mark(source: DataSource) -> str:
    return (source.drag or b"").decode()


def _kind(mime: bytes) -> str | None:
    """Return the kind of a client's type; None for a type that is never transferred."""
    return kind_of(mime.decode("utf-8", "replace"))
