"""Copying out of a sandbox into the user's own selection.

No filter sees a paste of the user's own programs, so it is decided when the
chord copies.  The compositor takes it from the client that got the chord's key
press, so from no other and not later.

Content that comes back by the paste chord must not lose its origin: work's rules
hold for content of work.  Each export therefore has a *mark*, a type of a
random name, and whatever selection bears it is that sandbox's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from broker.core.escape import printable
from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons
from broker.viewer.clipboard.exchange.content import (
    HeldContent,
    crossing,
    pieces_of,
    size_of,
    ticking,
)

MARK = "application/x-vitrail-export-"
"""Prefix of a mark; the rest is random."""


@dataclass
class _Asked:
    """An export that waits for policy's answer, or for the focus to return."""

    transfer: int
    press: int
    held: HeldContent
    until: float
    terms: w.PasteTerms | None = None


@dataclass(frozen=True)
class _Standing:
    """The user's current selection, as far as the broker knows."""

    transfer: int
    source: str
    items: tuple[w.Item, ...]
    until: float
    content: HeldContent


# The rule decides before your own clipboard is read. Between sandboxes the content is
# read when it is copied, and its size is known to the rule. Of the user's own clipboard
# only the types are known before; reading it first to know its size would bring it into
# a sandbox's worker without a verdict. So the rule is asked without a size, and its
# `max-size=` is enforced while the content is read.
class Exports:
    """The outward way of one ``Crossing``."""

    def __init__(
        self,
        new_mark: Callable[[], str],
        digest: Callable[[tuple[w.Item, ...]], str],
    ) -> None:
        self._new_mark = new_mark
        self._digest = digest
        self._asked: _Asked | None = None
        self._standing: _Standing | None = None
        self._marks: OrderedDict[str, str] = OrderedDict()

    @property
    def deadline(self) -> float | None:
        """When ``expire`` is due."""
        times = [x.until for x in (self._asked, self._standing) if x]
        return min(times, default=None)

    @property
    def undecided(self) -> set[int]:
        """The transfer about which policy was asked."""
        asked = self._asked
        return {asked.transfer} if asked is not None and not asked.terms else set()

    @property
    def source(self) -> str:
        """The sandbox that the user's selection came from; empty: none known."""
        return self._standing.source if self._standing else ""

    def origin(self, untrusted_types: tuple[str, ...]) -> str | None:
        """Return the sandbox that a selection was copied out of.

        None: none that we know.

        Empty for an ended one.
        """
        found = [self._marks[name] for name in untrusted_types if name in self._marks]
        return found[0] if found else None

    def begin(
        self, transfer: int, press: int, held: HeldContent, now: float
    ) -> Iterator[w.Action]:
        """Ask policy whether the copied content may become the user's own selection."""
        self._asked = _Asked(
            transfer, press, held, now + limits.CLIPBOARD_DECIDE_SECONDS
        )
        kinds = tuple((item.kind, len(item.data)) for item in held.items)
        yield w.AskPolicy(transfer, held.source, w.VIEWER, kinds)

    def decided(
        self, event: w.Decided, focused: str | None, now: float
    ) -> Iterator[w.Action]:
        """Handle the decision on an export: read the content, or record the refusal."""
        asked = self._asked
        if asked is None or event.transfer != asked.transfer or asked.terms:
            return
        if event.terms is None:
            self._asked = None
            yield w.RecordCrossing(
                w.Outcome.REFUSED,
                asked.held.source,
                w.VIEWER,
                asked.held.kinds,
                asked.held.size,
                event.reason or "no rule allows it",
                by_policy=True,
            )
            return
        asked.terms = event.terms
        # Else it waits: the dialog that was answered still has the focus.
        asked.until = now + limits.CLIPBOARD_COPY_SECONDS
        yield from self.go_on(focused, now)

    def taken(self, sandbox: str) -> Iterator[w.Action]:
        """A sandbox says that it has the keyboard."""
        # guard: focus moved before an export
        if self._asked is not None and self._asked.held.source != sandbox:
            yield from self.drop(reasons.MOVED)

    def go_on(self, focused: str | None, now: float) -> Iterator[w.Action]:
        """Export the permitted content, if its sandbox has the keyboard."""
        asked = self._asked
        # guard: an export only with the focus
        if asked is None or asked.terms is None or focused != asked.held.source:
            return
        self._asked = None
        items, reason = crossing(asked.held.items, asked.terms)
        record = w.RecordCrossing(
            w.Outcome.EXPORTED if items else w.Outcome.REFUSED,
            asked.held.source,
            w.VIEWER,
            tuple(item.kind for item in items) or asked.held.kinds,
            size_of(items) or asked.held.size,
            "" if items else reason,
            asked.terms.rule,
            self._digest(items) if items else "",
            window=asked.held.window,
        )
        yield record
        if items:
            mark = self._new_mark()
            # guard: origin of an export
            self._marks[mark] = asked.held.source
            # guard: origins remembered
            while len(self._marks) > limits.CLIPBOARD_MARKS:
                self._marks.popitem(last=False)
            until = now + ticking(asked.terms.ttl)
            self._standing = _Standing(
                asked.transfer, asked.held.source, items, until, asked.held
            )
            pieces = pieces_of(items)
            export = ipc.Export(asked.transfer, asked.press, pieces, mark)
            yield w.WorkerOrder(asked.held.source, export, items)

    def exported(self, sandbox: str, event: ipc.Exported) -> Iterator[w.Action]:
        """Handle a worker's answer on an export: record it, or drop it on a problem."""
        standing = self._standing
        if standing is None or standing.transfer != event.transfer:
            return  # it was replaced meanwhile
        # guard: only the source of an export answers it
        if standing.source != sandbox:
            yield w.Blame(sandbox, "it answered a request for another sandbox")
        elif event.problem:
            self._standing = None
            yield w.RecordCrossing(
                w.Outcome.DROPPED,
                standing.source,
                w.VIEWER,
                tuple(item.kind for item in standing.items),
                size_of(standing.items),
                printable(event.problem, reasons.REASON),
            )

    @property
    def content(self) -> HeldContent | None:
        """The content that is the user's own selection, as far as it is known."""
        return self._standing.content if self._standing else None

    def ended(self, sandbox: str, transfer: int) -> None:
        """Forget the export whose selection has ended."""
        standing = self._standing
        if standing is not None and (standing.transfer, standing.source) == (
            transfer,
            sandbox,
        ):
            self._standing = None

    def drop(self, reason: str) -> Iterator[w.Action]:
        """Drop an export that is not decided yet, and record the reason."""
        asked, self._asked = self._asked, None
        if asked is not None:
            held = asked.held
            yield w.RecordCrossing(
                w.Outcome.DROPPED, held.source, w.VIEWER, held.kinds, held.size, reason
            )

    def expire(self, now: float) -> Iterator[w.Action]:
        """Drop exports whose deadline has passed; return the actions for it."""
        if self._asked is not None and now >= self._asked.until:
            yield from self.drop(reasons.UNDECIDED)
        # guard: an export expires
        if self._standing is not None and now >= self._standing.until:
            yield from self.withdraw(w.Outcome.EXPIRED, "")

    def withdraw(self, outcome: w.Outcome, reason: str) -> Iterator[w.Action]:
        """Take the export back from the user's selection, if it is there."""
        standing, self._standing = self._standing, None
        if standing is not None:
            yield w.WorkerOrder(standing.source, ipc.Withdraw(standing.transfer))
            yield w.RecordCrossing(outcome, standing.source, w.VIEWER, reason=reason)

    def gone(self, sandbox: str) -> Iterator[w.Action]:
        """Drop the export of an ended sandbox, whose name may be reused."""
        if self._asked is not None and self._asked.held.source == sandbox:
            yield from self.drop(reasons.GONE)
        if self._standing is not None and self._standing.source == sandbox:
            self._standing = None
        for mark, source in self._marks.items():
            if source == sandbox:
                # guard: origin of an ended sandbox
                self._marks[mark] = ""
