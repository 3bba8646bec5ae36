"""State of the clipboard's broker between events, and its release."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import drags
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.content import HeldContent, in_bytes
from broker.viewer.clipboard.exchange.exports import MARK, Exports
from broker.viewer.clipboard.exchange.offers import Giving
from broker.viewer.clipboard.exchange.operations import Copy, Paste


def _no_mark() -> str:
    """A mark for cores that export nothing."""
    return MARK


class BrokerState:
    """One content held, one selection being read, one paste being decided.

    ``digest`` makes the keyed hash of content for the log; ``new_mark`` a random
    type, see ``exports``.
    """

    def __init__(
        self,
        digest: Callable[[bytes], str] | None = None,
        new_mark: Callable[[], str] = _no_mark,
    ) -> None:
        self._hash = digest
        self._claims: set[str] = set()
        self._focus_change = ("", float("-inf"))
        """The sandbox that took or lost the keyboard last, and when."""
        self._copy: Copy | None = None
        self._held: HeldContent | None = None
        self._paste: Paste | None = None
        self._last = 0
        self._giving = Giving(self._number, self._digest)
        self._drops = Giving(self._number, self._digest, "drag")
        self._drags = drags.DragTable()
        self._exports = Exports(new_mark, self._digest)

    @property
    def focused(self) -> str | None:
        """The member that has the keyboard, if exactly one claims it."""
        return next(iter(self._claims)) if len(self._claims) == 1 else None

    @property
    def claims(self) -> frozenset[str]:
        """The members that claim to have the keyboard."""
        return frozenset(self._claims)

    def _drop_copy(self, reason: str) -> Iterator[w.Action]:
        """Stop the current copy, and record the reason."""
        copy, self._copy = self._copy, None
        if copy is None:
            return
        if copy.host and copy.into is None:
            self._paste = None
        yield w.WorkerOrder(copy.reader, ipc.StopRead(copy.transfer))
        yield from drags.given_up(copy.source, copy.target, copy.drop, reason)

    def _drop_paste(self, reason: str) -> Iterator[w.Action]:
        """Stop the current paste, and record the reason."""
        paste, self._paste = self._paste, None
        if paste is None:
            return
        if paste.source == w.VIEWER:
            yield from self._drop_copy(reason)
            return
        yield from drags.given_up(paste.source, paste.target, paste.drop, reason)

    def _number(self) -> int:
        self._last += 1
        return self._last

    def _digest(self, items: tuple[w.Item, ...]) -> str:
        return "" if self._hash is None else self._hash(in_bytes(items))
