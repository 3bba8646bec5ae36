"""Reading a selection, or dropped content, type by type from its source's worker.

A worker is believed only about its sandbox, and only in answers to requests:
each request has a separate number, and ``Copy.expects`` has the order of answers.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.core.clipboard.types import choose, names_files
from broker.core.errors import PeerError
from broker.core.escape import printable
from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import drags, files
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.broker_state import BrokerState
from broker.viewer.clipboard.exchange.content import HeldContent, ticking
from broker.viewer.clipboard.exchange.operations import Copy, Drop, Paste
from broker.viewer.clipboard.exchange.reasons import (
    DRAG_EMPTY,
    DRAG_FILES,
    DRAG_KEY,
    DRAG_NAMES,
    EMPTY,
    FAILED,
    FILES,
    HOST_EMPTY,
    LARGE,
    ORIGIN_GONE,
    REASON,
    SAME,
)


class SelectionReader(BrokerState):
    """Takes the answers of workers, until a selection is read or given up."""

    def _worker_said(
        self, sandbox: str, event: w.Answer, now: float
    ) -> Iterator[w.Action]:
        """Pass a worker's answer to the paste or copy that it is about."""
        for giving in (self._giving, self._drops):
            if giving.asked(event.transfer):
                yield from giving.said(sandbox, event, now)
                return
        copy = self._copy
        # guard: an answer belongs to the present copy
        if copy is None or event.transfer != copy.transfer:
            if event.transfer > self._last or event.transfer < 1:
                yield w.Blame(sandbox, "it answered an unknown request")
            return  # else late: it was given up, or is over
        # guard: only the asked sandbox answers a copy
        if sandbox != copy.reader:
            yield w.Blame(sandbox, "it answered a request for another sandbox")
        elif not copy.expects(event):
            yield from self._drop_copy(FAILED)
            yield w.Blame(sandbox, "it sent replies out of order")
        else:
            yield from self._read_said(copy, event, now)

    def _read_said(self, copy: Copy, event: w.Answer, now: float) -> Iterator[w.Action]:
        """Handle an answer about the current copy: types, data or a failure."""
        match event:
            case ipc.ClipboardTypes(_, untrusted_types):
                yield from self._types_told(copy, tuple(untrusted_types), now)
            case w.CheckedContent():
                yield from self._data_came(copy, event.untrusted_data, now)
            case ipc.ClipboardLarge():
                copy.too_large = True
                yield from self._read_next(copy, now)
            case ipc.ClipboardFailed(_, reason):
                yield from self._drop_copy(printable(reason, REASON) or FAILED)

    def _types_told(
        self, copy: Copy, untrusted_types: tuple[str, ...], now: float
    ) -> Iterator[w.Action]:
        """Choose the types to read of those offered, and ask for the first."""
        if copy.terms.files:
            # guard: nothing is read of the user's drag of files but its key
            copy.left = [files.KEY] if files.KEY.name in untrusted_types else []
            if copy.left:
                yield from self._read_next(copy, now)
            else:
                yield from self._drop_copy(DRAG_NAMES)
            return
        named = names_files(untrusted_types)
        listed = files.pick(untrusted_types) if copy.between else []
        # guard: files that are dragged out meanwhile
        # guard: files that are dragged
        if copy.drop is not None and named and not listed:
            # The text beside it is the file's name.
            yield from self._drop_copy(DRAG_FILES)
            return
        if copy.drop is not None and copy.drop.wanted:
            untrusted_types = (copy.drop.wanted,)
        try:
            copy.left = list(choose(untrusted_types, copy.terms.patterns))
        except PeerError as error:
            yield from self._drop_copy(error.message)
            yield w.Blame(copy.reader, error.message)
            return
        if listed:
            # A list without files, of a link, leaves what else may cross.
            copy.left = [*listed, *([] if copy.drop else copy.left)]
            yield from self._read_next(copy, now)
            return
        elsewhere = copy.host or copy.primary or copy.drop is not None
        if not copy.left and copy.terms.primary and not elsewhere:
            copy.primary, copy.transfer = True, self._number()
            yield w.WorkerOrder(copy.source, ipc.AskTypes(copy.transfer, primary=True))
        elif not copy.left and named:
            yield from self._drop_copy(FILES)
        elif copy.host:
            yield from self._host_types_told(copy, untrusted_types, now)
        else:
            yield from self._read_next(copy, now)

    def _host_types_told(
        self, copy: Copy, untrusted_types: tuple[str, ...], now: float
    ) -> Iterator[w.Action]:
        """Ask policy before any of the user's own selection is read."""
        origin = self._exports.origin(untrusted_types)
        empty = DRAG_EMPTY if copy.drop else HOST_EMPTY
        reason = empty if not copy.left else ""
        if origin is not None and not reason:
            reason = {"": ORIGIN_GONE, copy.reader: SAME}.get(origin, "")
        if reason and copy.drop is not None:
            yield from self._drop_copy(reason)
            return
        if reason:
            self._copy = None
            yield w.RecordCrossing(
                w.Outcome.REFUSED, w.VIEWER, copy.reader, reason=reason
            )
            return
        copy.until = now + limits.CLIPBOARD_DECIDE_SECONDS
        copy.transfer = self._number()
        number, to, drop = copy.transfer, copy.reader, copy.drop
        self._paste = Paste(number, w.VIEWER, to, copy.until, drop)
        kinds = tuple((pick.kind, None) for pick in copy.left)
        # guard: policy decides before the user's drag is read
        # guard: policy decides before the user's clipboard is read
        yield w.AskPolicy(number, w.VIEWER, to, kinds, origin or "", bool(drop))

    def _read_next(self, copy: Copy, now: float) -> Iterator[w.Action]:
        """Ask for the next type of content, or end the copy when all are read."""
        found = copy.terms.files and not (copy.left or copy.too_large)
        if found and copy.drop is not None:
            yield from self._key_read(copy.drop, b"".join(i.data for i in copy.items))
            return
        listed = files.listed(copy.items)
        if listed:
            yield from self._files_read(copy, listed, now)
            return
        copy.items = files.without_list(copy.items)
        if copy.left:
            room = copy.room
            copy.reading = copy.left.pop(0)
            # A number for each type: late data of one are not taken for another's.
            copy.transfer = self._number()
            host = copy.host and copy.drop is None
            read = ipc.ReadType(copy.transfer, copy.reading.name, room, host)
            yield w.WorkerOrder(copy.reader, read)
            return
        if not copy.items:
            empty = DRAG_EMPTY if copy.drop else EMPTY
            yield from self._drop_copy(LARGE if copy.too_large else empty)
            return
        self._copy = None
        if copy.drop is not None:
            yield from self._drop_read(copy, copy.drop, now)
            return
        if copy.into is not None:
            yield from self._giving.give(*copy.into, tuple(copy.items), now)
            return
        held = self._hold(copy, tuple(copy.items), (), now)
        yield w.RecordCrossing(
            w.Outcome.COPIED,
            held.source,
            kinds=held.kinds,
            size=held.size,
            digest=self._digest(held.items),
            selection="primary" if held.primary else "clipboard",
            window=held.window,
            outward=copy.outward,
        )
        if copy.outward:
            yield from self._exports.begin(self._number(), copy.press, held, now)

    def _hold(
        self, copy: Copy, items: tuple[w.Item, ...], files: tuple[str, ...], now: float
    ) -> HeldContent:
        """Hold copied content until it is pasted, and return it."""
        until, origin = now + ticking(copy.terms.ttl), (copy.window, copy.desktop)
        self._held = HeldContent(
            copy.source, items, now, until, copy.primary, files, *origin
        )
        return self._held

    def _files_read(
        self, copy: Copy, listed: tuple[str, ...], now: float
    ) -> Iterator[w.Action]:
        """Hold files until the paste, or start to carry those that were dropped."""
        self._copy, drop = None, copy.drop
        if drop is not None:
            yield w.WorkerOrder(drop.target, ipc.EndDrag(drop.number, finished=True))
            yield w.CarryFiles(self._number(), drop.source, drop.target, listed)
            return
        # The text beside them is their names, which mean other files elsewhere.
        content = self._hold(copy, (), listed, now)
        yield w.RecordCrossing(
            w.Outcome.COPIED,
            content.source,
            kinds=content.kinds,
            size=len(listed),
            window=content.window,
        )

    def _key_read(self, drop: Drop, untrusted_data: bytes) -> Iterator[w.Action]:
        """Start to carry the user's dropped files, or give the drop up."""
        key = files.key_in(untrusted_data)
        if key is None:
            yield from self._drop_copy(DRAG_KEY)
            return
        self._copy = None
        yield w.WorkerOrder(drop.target, ipc.EndDrag(drop.number, finished=True))
        yield w.CarryDropped(drop.target, key)

    def _data_came(
        self, copy: Copy, untrusted_data: bytes, now: float
    ) -> Iterator[w.Action]:
        """Store the data of a type, unless it is too large."""
        # guard: size of a copy
        if len(untrusted_data) > copy.room:
            # This type is left out whole: half a command is another command.  The others
            # cross, as people would else make rules with large sizes for a small text.
            copy.too_large = True
            if copy.reading is not None and copy.reading.kind == files.URI_LIST:
                yield from self._drop_copy(LARGE)  # the text would be the files' names
                return
        elif copy.reading is not None and untrusted_data:
            copy.items.append(w.Item(copy.reading.kind, untrusted_data))
        yield from self._read_next(copy, now)

    def _drop_read(self, copy: Copy, drop: Drop, now: float) -> Iterator[w.Action]:
        """Give the completely read drop to its target, or ask policy about it."""
        if drop.target != w.VIEWER:
            yield w.WorkerOrder(drop.target, ipc.EndDrag(drop.number, finished=True))
        items = tuple(copy.items)
        if copy.into is not None:
            yield from self._drops.give(*copy.into, items, now)
            return
        # guard: policy before a drop is given
        self._paste, asks = drags.ask(drop, items, self._number(), now)
        yield asks
