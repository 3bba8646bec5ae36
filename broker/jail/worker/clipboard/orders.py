"""In the worker: content to and from its sandbox, as the supervisor orders.

The filters' observations of the user (focus, chords) are reported; a selection
is read through our pipe into a file in memory, whole or not at all; pasted
content is served from such a file, to as many applications as ask
(``worker_serving``).  Drags: ``worker_drags``.

Where the process has no descriptor or no memory left for one transfer, that one
is refused, and the rest is carried out.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import trio
from typing_extensions import override

from broker.core import limits
from broker.core.clipboard.chords import Chord, ChordPair
from broker.core.errors import InternalError, PeerError
from broker.core.limits import clipboard as clipboard_limits
from broker.core.stderr_log import log_exception
from broker.ipc import clipboard as messages
from broker.ipc import sealed_memfd
from broker.ipc import worker as all_messages
from broker.jail.clipboard.chord_recogniser import Recogniser
from broker.jail.clipboard.cleaning import clean
from broker.jail.wayland import listing
from broker.jail.wayland.ports import InputListener, SeatChords
from broker.jail.worker.clipboard.drags import Origin, WorkerDrags
from broker.jail.worker.clipboard.serving import ServedContent, Serving, ToHost
from broker.wire import fdpass

if TYPE_CHECKING:
    from broker.jail.wayland.handlers.host_seat import OwnSeat
    from broker.jail.wayland.sandbox import Sandbox
    from broker.jail.wayland.state import ClientState

CLIPBOARD, PRIMARY = "clipboard", "primary"
_PIPE_BYTES = 1 << 16
"""Capacity of a pipe: pipe(7)."""
_NO_ROOM = "the sandbox's worker has too many transfers"
_ONE_FILE = messages.ReadType | messages.Offer | messages.Export | messages.Serve
Outbox: TypeAlias = "trio.MemorySendChannel[all_messages.FromWorker]"


def _files_of(order: messages.ToWorker) -> int:
    """How many descriptors come with an order."""
    if isinstance(order, messages.Rewrite):
        return 2
    return int(isinstance(order, _ONE_FILE))


@dataclass(frozen=True)
class _Press:
    """A chord, and where it was pressed."""

    number: int
    core: ClientState
    seat: OwnSeat
    serial: int


class WorkerClipboard(InputListener):
    """Transfers to and from the worker's sandbox."""

    def __init__(self, sandbox: Sandbox, outbox: Outbox) -> None:
        self._sandbox = sandbox
        self._outbox = outbox
        self._nursery: trio.Nursery | None = None
        self._chords: ChordPair | None = None
        self._judges: weakref.WeakSet[Recogniser] = weakref.WeakSet()
        self._waiting: deque[messages.FromWorker] = deque()
        self._more = trio.Event()
        self._trouble = ""
        self._presses = 0
        self._copy: _Press | None = None
        self._paste: _Press | None = None
        self._asked: Origin | None = None
        self._reading = trio.CancelScope()
        self.serving = Serving()
        self._drags = WorkerDrags(sandbox, self._say, self.serving)
        self._exports: dict[int, ToHost] = {}
        sandbox.hand = self

    async def run(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Send queued reports to the viewer, at a limited rate, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self.serving.begin(self._nursery)
            task_status.started()
            while True:
                await self._more.wait()
                self._more = trio.Event()
                while self._waiting:
                    await self._outbox.send(self._waiting.popleft())
                    # An application that makes the focus jump must not make
                    # its worker exceed what a worker may say.
                    await trio.sleep(2 / limits.WORKER_MESSAGES_PER_SECOND)

    @property
    @override
    def drags(self) -> WorkerDrags:
        return self._drags

    # -- what the filters see --------------------------------------------------------

    def _say(self, message: messages.FromWorker) -> None:
        """Queue a report for the viewer; drop a lesser one if the queue is full."""
        # guard: reports that wait
        if len(self._waiting) >= clipboard_limits.CLIPBOARD_EVENTS:
            # Only a client that makes the focus jump, or drags begin, comes so
            # far.  Where the focus is at the end is what counts, and other
            # sandboxes have none while this one claims it.
            # guard: a full queue keeps the reports of the focus
            self._forget_one()
        self._waiting.append(message)
        self._more.set()

    def _forget_one(self) -> None:
        """Drop the oldest message that is not the focus; end its drop."""
        focus = messages.ClipboardFocus
        found = (n for n, m in enumerate(self._waiting) if not isinstance(m, focus))
        at = next(found, 0)
        untold = self._waiting[at]
        del self._waiting[at]
        # guard: a drop that could not be reported ends for its program
        self._drags.untold(untold)

    @override
    def judge(self) -> SeatChords:
        made = Recogniser(self._chords)
        self._judges.add(made)
        return made

    @override
    def focus(self, *, taken: bool) -> None:
        """Tell the viewer whether this sandbox has the focus."""
        told = self._waiting[-1] if self._waiting else None
        if isinstance(told, messages.ClipboardFocus) and told.taken != taken:
            # guard: a focus that jumps
            self._waiting.pop()  # back where it was
            return
        self._say(messages.ClipboardFocus(taken))

    @override
    def trouble(self, reason: str) -> None:
        if reason != self._trouble:
            self._trouble = reason
            self._say(messages.ChordTroubleMessage(all_messages.clip(reason)))

    @override
    def pressed(
        self, core: ClientState, seat: OwnSeat, serial: int, *, paste: bool
    ) -> None:
        """Tell the viewer of the user's copy or paste chord."""
        self._presses += 1
        press = _Press(self._presses, core, seat, serial)
        if paste:
            self._paste = press
        else:
            self._copy = press
        windows = listing.windows_of(self._sandbox)
        title = next((window.title for window in windows if window.focused), "")
        offer = core.hands.offer
        types = _digest_types(() if offer is None else offer.mimes)
        self._say(messages.ChordPressed(press.number, paste, title, types))

    # -- orders ------------------------------------------------------------------------

    def obey(self, order: messages.ToWorker, fds: Sequence[int]) -> None:
        """Carry out an order of the viewer about content; closes the descriptors."""
        if len(fds) != _files_of(order):
            fdpass.close_all(fds)
            raise InternalError("a clipboard order has the wrong number of descriptors")
        match order:
            case messages.ChordsMessage():
                self._choose(order)
            case messages.AskTypes():
                types = self._types(order)
                self._say(messages.ClipboardTypes(order.transfer, types))
            case messages.ReadType():
                self._start_reading(order, fds[0])
            case messages.StopRead():
                self._reading.cancel()
            case messages.Rewrite():
                self._reading.cancel()  # one at a time
                self._reading = trio.CancelScope()
                self._task(self._rewrite, order, fds, self._reading)
            case messages.Offer():
                self._offer(order, fds[0])
            case messages.Export():
                self._start_export(order, fds[0])
            case messages.Withdraw(transfer):
                self._withdraw(transfer)
            case _:
                self.drags.obey(order, fds)

    def _choose(self, order: messages.ChordsMessage) -> None:
        self._chords = ChordPair(Chord.parse(order.copy), Chord.parse(order.paste))
        for judge in list(self._judges):
            self.trouble(judge.change(self._chords))

    # -- reading -----------------------------------------------------------------------

    def _types(self, order: messages.AskTypes) -> list[str]:
        """Return the types that can be read now, and keep their origin for it."""
        self._reading.cancel()
        if order.drag or order.drop:
            origin = self.drags.origin(order.drag, order.drop)
        elif order.host:
            origin = self._host()
        else:
            origin = self._own(PRIMARY if order.primary else CLIPBOARD)
        self._asked = origin
        return [] if origin is None else [mime.decode() for mime in origin.mimes]

    def _own(self, kind: str) -> Origin | None:
        """Return the origin of the sandbox's own selection."""
        selection = self._sandbox.selections[kind]
        if selection is None:
            return None
        return Origin(
            selection.mimes,
            selection.send,
            lambda: self._sandbox.selections[kind] is selection,
        )

    def _host(self) -> Origin | None:
        """Return the user's own selection, at the window of the last paste chord."""
        # guard: a worker without the focus does not read the user's clipboard
        if self._paste is None or not self._paste.core.focused:
            return None
        hands = self._paste.core.hands
        offer = hands.offer
        if offer is None:
            return None
        return Origin(offer.mimes, hands.read, lambda: hands.offer is offer)

    def _start_reading(self, order: messages.ReadType, into: int) -> None:
        """Begin to read a selection, in place of a reading that runs."""
        self._reading.cancel()  # one at a time
        self._reading = trio.CancelScope()
        origin = self._asked
        if order.host:
            # Reported again when the focus was away for a question meanwhile.
            now = self._host()
            # guard: a renewed offer is read only with its old types
            if now is None or origin is None or set(now.mimes) != set(origin.mimes):
                now = None
            origin = now
        self._task(self._read, order, origin, into, self._reading)

    async def _read(
        self,
        order: messages.ReadType,
        origin: Origin | None,
        into: int,
        scope: trio.CancelScope,
    ) -> None:
        problem = "the sandbox did not send the content in time"
        size = 0
        try:
            # guard: deadline of a read
            with scope, trio.move_on_after(clipboard_limits.CLIPBOARD_COPY_SECONDS):
                try:
                    size, problem = await self._fill(order, origin, into)
                except OSError as error:  # EMFILE, ENOSPC
                    log_exception(error)
                    problem = _NO_ROOM
            if scope.cancelled_caught:
                return  # it is no longer wanted
            if problem:
                await self._outbox.send(
                    messages.ClipboardFailed(order.transfer, problem)
                )
            elif size > order.max_bytes:
                await self._outbox.send(messages.ClipboardLarge(order.transfer))
            else:
                data = messages.ClipboardData(order.transfer, size)
                await self._outbox.send(data)
        finally:
            os.close(into)

    async def _fill(
        self, order: messages.ReadType, origin: Origin | None, into: int
    ) -> tuple[int, str]:
        """Read until the source is done or it is too much; its size, or a problem."""
        if origin is None or not origin.valid():
            return 0, "another selection replaced it"
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(theirs, True)
            if not origin.send(order.name.encode(), theirs):
                os.close(theirs)
                return (0, "the source lacks the type or does not read")
            size = 0
            # guard: size of a read
            while size <= order.max_bytes:
                await trio.lowlevel.wait_readable(ours)
                try:
                    untrusted_data = os.read(ours, _PIPE_BYTES)
                except BlockingIOError:
                    continue
                if not untrusted_data:
                    break
                if size + len(untrusted_data) <= order.max_bytes:
                    sealed_memfd.append(into, untrusted_data, size)
                size += len(untrusted_data)
        finally:
            os.close(ours)
        if size <= order.max_bytes:
            # A source that dies closes its pipe first: then this was not all.
            await trio.sleep(clipboard_limits.CLIPBOARD_DEATH_SECONDS)
        # guard: alive at the end
        # guard: the same selection to the end
        if not origin.valid():
            return 0, "the source ended, or another selection replaced it"
        return size, ""

    async def _rewrite(
        self,
        order: messages.Rewrite,
        fds: Sequence[int],
        scope: trio.CancelScope,
    ) -> None:
        """Clean content that is to be pasted here, and report it to the viewer."""
        try:
            with scope:
                await self._answer_rewritten(order, *fds)
        finally:
            fdpass.close_all(fds)

    async def _answer_rewritten(
        self, order: messages.Rewrite, fd: int, into: int
    ) -> None:
        """Rewrite a content without active parts; send it to the viewer."""
        try:
            data = await _cleaned(order.kind, await sealed_memfd.take(fd, order.size))
        except PeerError as error:
            reason = all_messages.clip(error.message)
            await self._outbox.send(messages.ClipboardFailed(order.transfer, reason))
            return
        if len(data) > clipboard_limits.CLIPBOARD_BYTES_MOST:
            await self._outbox.send(messages.ClipboardLarge(order.transfer))
            return
        try:
            sealed_memfd.append(into, data, 0)
        except OSError as error:
            log_exception(error)
            await self._outbox.send(messages.ClipboardFailed(order.transfer, _NO_ROOM))
            return
        await self._outbox.send(messages.ClipboardData(order.transfer, len(data)))

    # -- given content -----------------------------------------------------------------

    def _offer(self, order: messages.Offer, fd: int) -> None:
        """Make content the sandbox's selection; the previous one ends."""
        if order.drop:
            held = ServedContent(self, order.transfer, order.pieces, fd)
            self.drags.give(order.drop, held)
            return
        if order.primary:
            try:
                mine = os.dup(fd)
            except OSError as error:
                log_exception(error)
                os.close(fd)
                self._say(messages.OfferRefused(order.transfer, _NO_ROOM))
                return
            also = ServedContent(self, order.transfer, order.pieces, mine)
            also.withdrawn = True  # only the other one is reported
            self._sandbox.select(PRIMARY, also)
        held = ServedContent(self, order.transfer, order.pieces, fd)
        self._sandbox.select(CLIPBOARD, held)

    def held_ended(self, held: ServedContent) -> None:
        """Report to the viewer that served content was replaced or its file closed."""
        if isinstance(held, ToHost):
            if self._exports.pop(held.transfer, None) is not None:
                replaced = held.core in self._sandbox.filters
                self._say(messages.ExportEnded(held.transfer, replaced))
        elif not held.withdrawn:
            self.drags.given_ended(held)
            self._forget(PRIMARY, held.transfer)
            self._say(messages.OfferEnded(held.transfer))

    def _forget(self, kind: str, transfer: int) -> None:
        held = self._sandbox.selections[kind]
        if isinstance(held, ServedContent) and held.transfer == transfer:
            held.withdrawn = True
            self._sandbox.select(kind, None)

    def _withdraw(self, transfer: int) -> None:
        """Withdraw the viewer's content from all selections."""
        for kind in (CLIPBOARD, PRIMARY):
            self._forget(kind, transfer)
        self.drags.withdraw(transfer)
        export = self._exports.pop(transfer, None)
        if export is not None:
            export.core.hands.take_back(export)

    # -- to the user's own programs -------------------------------------------------------

    def _start_export(self, order: messages.Export, fd: int) -> None:
        problem = self._export(order, fd)
        if problem:
            self._say(messages.Exported(order.transfer, problem))

    def _export(self, order: messages.Export, fd: int) -> str:
        """Set the user's selection to copied content; return what prevents that."""
        press = self._copy
        # guard: an export needs its press
        if press is None or press.number != order.press or not press.core.focused:
            os.close(fd)
            return "the window of the copy no longer has the keyboard focus"
        # guard: one export for each press
        self._copy = None  # one export for each press: the second would be refused
        content = ToHost(self, order, fd, press.core)
        self._exports[order.transfer] = content
        if not press.core.hands.export(press.seat, press.serial, content, content.mark):
            del self._exports[order.transfer]
            content.cancel()
            return "the compositor does not provide a clipboard"
        self._task(self._await_echo, content)
        return ""

    async def _await_echo(self, content: ToHost) -> None:
        """Wait until the compositor has taken the content; tell the viewer."""
        with trio.move_on_after(clipboard_limits.CLIPBOARD_EXPORT_SECONDS):
            await content.echoed.wait()
        problem = ""
        if not content.echoed.is_set():
            problem = "the compositor did not accept the selection"
            self._withdraw(content.transfer)
        self._say(messages.Exported(content.transfer, problem))

    def _task(self, step: Callable[..., Awaitable[None]], *args: object) -> None:
        assert self._nursery is not None, "run() comes first"
        self._nursery.start_soon(step, *args)


def _digest_types(mimes: Sequence[bytes]) -> str:
    """Return a short text for a selection's types in any order; empty for none."""
    if not mimes:
        return ""
    return hashlib.blake2b(repr(sorted(mimes)).encode(), digest_size=16).hexdigest()


async def _cleaned(kind: str, untrusted_data: bytes) -> bytes:
    """Clean content of a type step by step.  Raises PeerError."""
    steps = clean(kind, untrusted_data)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bytes(end.value)
        await trio.lowlevel.checkpoint()
