"""Drags between sandboxes: whose they are, where they are, and when they count.

A drag's mark is reported by its sandbox's worker, and a drag over a window by
that window's worker; neither believes the other.  A drop counts when both have seen
it: the target's worker that it was dropped there, the source's that the
compositor calls it dropped.  So no worker can take content that is only dragged past
it, nor give content that was not dropped.  Where a second one claims the drop, one of
them lies, and neither gets it.

The window that a drag is over *now* cannot be known: the messages of three workers
have no common order.  So a drag is remembered over each window that it came over,
and only the report of the drop counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from broker.core.clipboard.types import kind_of
from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.content import crossing, size_of
from broker.viewer.clipboard.exchange.operations import Copy, Drop, Paste
from broker.viewer.clipboard.exchange.reasons import (
    DRAG,
    DRAG_ALONE,
    DRAG_TWICE,
    DRAG_UNKNOWN,
    GONE,
)


@dataclass
class _Drag:
    source: str
    performed: bool = False
    """Dropped on a window that accepts it."""
    settled: bool = False
    """A target has that drop, or none gets it; its source still has the drag."""


@dataclass
class _Over:
    """The last drag that came over a sandbox's windows."""

    number: int
    mark: str
    source: str
    terms: w.CopyTerms
    dropped_until: float | None = None
    """Set with the drop: how long the source's word may take."""

    def drop(self, target: str) -> Drop:
        """The drop of this drag in a window of ``target``."""
        return Drop(self.source, target, self.number, self.mark, self.terms)


def refused(source: str, target: str, reason: str) -> w.RecordCrossing:
    """For a drag that does not cross."""
    return w.RecordCrossing(
        w.Outcome.REFUSED, source, target, reason=reason, selection="drag"
    )


def given_up(
    source: str, target: str, drop: Drop | None, reason: str
) -> Iterator[w.Action]:
    """Record that a drop, or (None) a copy or paste, was given up."""
    if drop is not None:
        yield w.WorkerOrder(drop.seen_by, ipc.EndDrag(drop.number))
    selection = "drag" if drop else "clipboard"
    yield w.RecordCrossing(
        w.Outcome.DROPPED, source, target, reason=reason, selection=selection
    )


def _wanted(sandbox: str, event: w.DragWanted) -> tuple[list[w.Action], Drop | None]:
    number, terms = event.number, event.terms
    if terms is None or kind_of(event.untrusted_name) is None:
        return [
            w.WorkerOrder(sandbox, ipc.EndDrag(number)),
            refused(sandbox, w.VIEWER, DRAG),
        ], None
    name = event.untrusted_name
    return [], Drop(sandbox, w.VIEWER, number, event.mark, terms, name)


def begin(drop: Drop, number: int, now: float) -> tuple[Copy, w.Action]:
    """Start to read dropped content; return the copy and the order to list types."""
    host = drop.source == w.VIEWER
    reader = drop.target if host else drop.source
    until = now + limits.CLIPBOARD_COPY_SECONDS
    copy = Copy(number, drop.source, reader, drop.terms, until, drop=drop)
    if host:
        return copy, w.WorkerOrder(
            reader, ipc.AskTypes(number, host=True, drop=drop.number)
        )
    return copy, w.WorkerOrder(reader, ipc.AskTypes(number, drag=drop.mark))


def ask(
    drop: Drop, items: tuple[w.Item, ...], number: int, now: float
) -> tuple[Paste, w.Action]:
    """Return the paste of a completely read drop, and the question to policy."""
    until = now + limits.CLIPBOARD_DECIDE_SECONDS
    kinds = tuple((item.kind, len(item.data)) for item in items)
    asks = w.AskPolicy(number, drop.source, drop.target, kinds, drag=True)
    return Paste(number, drop.source, drop.target, until, drop, items), asks


def decided(
    drop: Drop,
    items: tuple[w.Item, ...],
    event: w.Decided,
    digest: Callable[[tuple[w.Item, ...]], str],
) -> Iterator[w.Action]:
    """Record the decision on a drop that was refused, or goes to the user's program."""
    terms = event.terms
    # guard: an outgoing drag is decided at its drop
    allowed, reason = crossing(items, terms) if terms else ((), event.reason)
    yield w.RecordCrossing(
        w.Outcome.EXPORTED if allowed else w.Outcome.REFUSED,
        drop.source,
        drop.target,
        tuple(item.kind for item in allowed or items),
        size_of(allowed or items),
        "" if allowed else reason or "no rule allows it",
        terms.rule if terms else "",
        digest(allowed) if allowed else "",
        selection="drag",
        by_policy=terms is None,
    )
    if allowed:
        serve = ipc.Serve(drop.number, len(allowed[0].data))
        yield w.WorkerOrder(drop.source, serve, allowed[:1])
    elif drop.target == w.VIEWER:
        yield w.WorkerOrder(drop.source, ipc.EndDrag(drop.number))


# A drag crosses after its drop, as a drop of our own. Three ways were possible: show
# the target the types while the pointer is over it, refuse the drop and offer the paste
# chord instead, or let the user drop and decide then. The first shows types before a
# verdict; the second feels broken. With the third the target's filter accepts at the
# compositor in its client's stead, without notifying the client; the dropped content is
# read, decided, asked about if the rule wants that, and then given as an offer, an
# enter and a drop of our own at the place where the user let go. The source learns that
# its drag was accepted when the content was read, not the verdict of the rules.
#
# A drop needs the report of both workers, so that a compromised one cannot take content
# that is only dragged past it. The window that a drag is over now is not stored: the
# reports of several workers come in no fixed order, and an honest drop was lost where
# another one was late to say that the drag had passed. So a drag is remembered over
# each window, and a drop that two claim goes to neither, also when the second claim
# comes while it is read or decided. Out to the user's own programs no filter sees the
# drop: the types that a rule allows without a question are offered from the start, and
# each read is decided.
class DragTable:
    """The drags of one ``Crossing``."""

    def __init__(self) -> None:
        self._drags: OrderedDict[str, _Drag] = OrderedDict()
        self._overs: dict[str, _Over] = {}

    @property
    def times(self) -> list[float]:
        """The deadlines of pending drops, unsorted; ``expire`` is due at each."""
        known = (over.dropped_until for over in self._overs.values())
        return [until for until in known if until is not None]

    def source_of(self, mark: str) -> str:
        """The sandbox of the drag; empty where it is unknown."""
        if not mark:
            return w.VIEWER
        drag = self._drags.get(mark)
        return drag.source if drag is not None else ""

    def feed(
        self, sandbox: str, event: w.DragEvent, now: float
    ) -> tuple[list[w.Action], Drop | None]:
        """Handle a drag's event.

        Return actions, and the drop if both sides confirmed it.
        """
        match event:
            case ipc.ForeignDrag():
                return [refused("", sandbox, DRAG)], None
            case ipc.DragStarted(mark):
                return list(self._started(sandbox, mark)), None
            case ipc.DragEnded(mark):
                if self._own(sandbox, mark) is not None:
                    del self._drags[mark]
            case w.DragOver():
                return list(self._over(sandbox, event)), None
            case ipc.DragPerformed(mark):
                return self._performed(sandbox, mark)
            case ipc.DragDropped(number):
                return self._dropped(sandbox, number, now)
            case w.DragWanted():
                return _wanted(sandbox, event)
        return [], None

    # -- the source's worker ---------------------------------------------------------

    def _started(self, sandbox: str, mark: str) -> Iterator[w.Action]:
        """Handle that a sandbox's program began a drag: remember its source."""
        if not mark or mark in self._drags:
            yield w.Blame(sandbox, "it reused the identifier of another drag")
            return
        self._drags[mark] = _Drag(sandbox)
        mine = [m for m, d in self._drags.items() if d.source == sandbox]
        # guard: drags remembered
        for old in mine[: -limits.CLIPBOARD_DRAGS]:
            del self._drags[old]

    def _own(self, sandbox: str, mark: str) -> _Drag | None:
        drag = self._drags.get(mark)
        return drag if drag is not None and drag.source == sandbox else None

    def _performed(self, sandbox: str, mark: str) -> tuple[list[w.Action], Drop | None]:
        """Handle the source's report of a drop.

        Return it if the target reported it, too.
        """
        drag = self._own(sandbox, mark)
        if drag is None:
            return [], None
        drag.performed = True
        claims = [
            target
            for target, over in self._overs.items()
            if over.mark == mark and over.dropped_until is not None
        ]
        # guard: a drop that two claim
        if len(claims) < 2:
            return [], self._drop(claims[0]) if claims else None
        self._settle(mark)
        return [a for t in claims for a in self._give_up(t, DRAG_TWICE)], None

    def _settle(self, mark: str) -> None:
        """One drop comes of a drag.  A late word of its way is still of a known one."""
        drag = self._drags.get(mark)
        if drag is not None:
            drag.settled = True

    # -- the target's worker ----------------------------------------------------------

    def _over(self, sandbox: str, event: w.DragOver) -> Iterator[w.Action]:
        """Handle that a drag is over a window of a sandbox: accept or refuse it."""
        before = self._overs.get(sandbox)
        # guard: a drop that the next drag overtakes
        if before is not None and before.dropped_until is not None:
            yield from self._give_up(sandbox, DRAG_ALONE)
        # guard: a drag that is late to be elsewhere
        self._overs.pop(sandbox, None)
        source = self.source_of(event.mark)
        if not source or source == sandbox:
            yield refused(source, sandbox, DRAG_UNKNOWN)
        elif event.terms is None:
            yield refused(source, sandbox, event.reason or DRAG)
        else:
            self._overs[sandbox] = _Over(event.number, event.mark, source, event.terms)
            yield w.WorkerOrder(sandbox, ipc.AcceptDrag(event.number))

    def _dropped(
        self, sandbox: str, number: int, now: float
    ) -> tuple[list[w.Action], Drop | None]:
        """Handle the target's report of a drop.

        Return it if the source reported it, too.
        """
        over = self._overs.get(sandbox)
        if over is None:
            # guard: an unknown drop is let go
            return [w.WorkerOrder(sandbox, ipc.EndDrag(number))], None
        if over.number != number or over.dropped_until is not None:
            # Of another device of that program, which is notified of its offer.
            return [], None
        drag = self._drags.get(over.mark)
        # guard: one drop of each drag
        if drag is not None and drag.settled:
            return list(self._give_up(sandbox, DRAG_TWICE)), None
        over.dropped_until = now + limits.CLIPBOARD_DROP_SECONDS
        # guard: a drop that both have seen
        if over.mark and (drag is None or not drag.performed):
            return [], None
        return [], self._drop(sandbox)

    def also_claims(self, sandbox: str, event: w.DragEvent, drop: Drop | None) -> bool:
        """Return whether another worker claims the same dropped content."""
        # guard: an outgoing drag is not a drop
        # guard: the drop's target may claim it
        # guard: no second worker claims a drop without a mark
        if drop is None or not drop.mark or drop.target in {w.VIEWER, sandbox}:
            return False
        over = self._overs.get(sandbox)
        # guard: which drag is claimed
        return (
            isinstance(event, ipc.DragDropped)
            and over is not None
            and (over.number, over.mark) == (event.number, drop.mark)
        )

    def _drop(self, target: str) -> Drop:
        over = self._overs.pop(target)
        self._settle(over.mark)
        return over.drop(target)

    # -- ends ---------------------------------------------------------------------------

    def expire(self, now: float) -> Iterator[w.Action]:
        """Do the work that is due."""
        for target, over in list(self._overs.items()):
            if over.dropped_until is not None and now >= over.dropped_until:
                yield from self._give_up(target, DRAG_ALONE)

    def _give_up(self, target: str, reason: str) -> Iterator[w.Action]:
        over = self._overs.pop(target)
        yield from given_up(over.source, target, over.drop(target), reason)

    def gone(self, sandbox: str) -> Iterator[w.Action]:
        """Forget the drags from and over a sandbox that has ended."""
        for mark in [m for m, d in self._drags.items() if d.source == sandbox]:
            del self._drags[mark]
        self._overs.pop(sandbox, None)
        for target, over in list(self._overs.items()):
            if over.source == sandbox and over.dropped_until is not None:
                yield from self._give_up(target, GONE)
            elif over.source == sandbox:
                del self._overs[target]

    def wipe(self) -> Iterator[w.Action]:
        """Forget all; dropped content is not read any more."""
        for target, over in self._overs.items():
            if over.dropped_until is not None:
                yield w.WorkerOrder(target, ipc.EndDrag(over.number))
        self._overs.clear()
