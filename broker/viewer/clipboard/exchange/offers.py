"""The last part of a paste: cleaning in the target's worker, and the offer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from broker.core.escape import printable
from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.content import (
    PLAIN,
    most,
    pieces_of,
    size_of,
    ticking,
    to_clean,
)
from broker.viewer.clipboard.exchange.operations import Cleaning, Drop, Offered, Paste
from broker.viewer.clipboard.exchange.reasons import (
    CLEANED,
    FAILED,
    GONE,
    LARGE,
    REASON,
    SLOW,
)


class Giving:
    """Allowed content, until a target's filter has it, and until it is withdrawn.

    ``number`` makes the numbers of transfers, ``digest`` the keyed hash;
    ``selection`` is what the log calls it.
    """

    def __init__(
        self,
        number: Callable[[], int],
        digest: Callable[[tuple[w.Item, ...]], str],
        selection: str = "clipboard",
    ) -> None:
        self._selection = selection
        self._number = number
        self._digest = digest
        self._cleaning: Cleaning | None = None
        self._offers: dict[str, Offered] = {}

    @property
    def busy(self) -> bool:
        """Return whether an item is being rewritten."""
        return self._cleaning is not None

    @property
    def cleaned_for(self) -> Drop | None:
        """The drop whose content is being rewritten."""
        return None if self._cleaning is None else self._cleaning.paste.drop

    @property
    def times(self) -> list[float]:
        """When ``expire`` is due, for each thing."""
        times = [offer.until for offer in self._offers.values()]
        return times if self._cleaning is None else [*times, self._cleaning.until]

    def offered(self, now: float) -> tuple[tuple[str, str, float], ...]:
        """Source, target and seconds left of each paste that may be taken."""
        return tuple(
            (offer.source, target, offer.until - now)
            for target, offer in sorted(self._offers.items())
        )

    @property
    def standing(self) -> tuple[tuple[str, int, str, tuple[str, ...]], ...]:
        """Target, transfer, source and types of each offer."""
        return tuple(
            (target, offer.transfer, offer.source, offer.kinds)
            for target, offer in sorted(self._offers.items())
        )

    def asked(self, transfer: int) -> bool:
        """Return whether this is the number of the current rewriting."""
        return self._cleaning is not None and self._cleaning.transfer == transfer

    def give(
        self,
        paste: Paste,
        terms: w.PasteTerms,
        items: tuple[w.Item, ...],
        now: float,
    ) -> Iterator[w.Action]:
        """Offer items to the paste's target, after cleaning where terms demand it."""
        until = now + limits.CLIPBOARD_COPY_SECONDS
        self._cleaning = Cleaning(paste, terms, list(items), until)
        yield from self._clean_next_or_offer(self._cleaning, now)

    def _clean_next_or_offer(
        self, cleaning: Cleaning, now: float
    ) -> Iterator[w.Action]:
        """Ask for the next item to be rewritten; when none is left, offer the result."""
        while cleaning.left:
            item = cleaning.left[0]
            if to_clean(item, cleaning.terms.clean):
                cleaning.transfer = self._number()
                clean = sorted(cleaning.terms.clean - {PLAIN})
                rewrite = ipc.Rewrite(
                    cleaning.transfer, item.kind, len(item.data), clean
                )
                yield w.WorkerOrder(cleaning.paste.target, rewrite, (item,))
                return
            cleaning.done.append(cleaning.left.pop(0))
        self._cleaning = None
        items = tuple(item for item in cleaning.done if item.data)
        if items:
            yield from self._offer(cleaning.paste, items, cleaning.terms, now)
        else:
            yield self._not_clean(cleaning, CLEANED)

    def said(self, sandbox: str, event: w.Answer, now: float) -> Iterator[w.Action]:
        """Handle the target worker's answer: collect cleaned content, then offer it."""
        cleaning = self._cleaning
        if cleaning is None:
            return
        # guard: only the paste's target reports cleaned content
        if sandbox != cleaning.paste.target:
            yield w.Blame(sandbox, "it answered a request for another sandbox")
            return
        match event:
            case w.CheckedContent():
                done = w.Item(cleaning.left[0].kind, event.untrusted_data)
                # guard: size of cleaned content
                if size_of([*cleaning.done, done]) > most(cleaning.terms.max_bytes):
                    yield from self.drop(LARGE)
                    return
                del cleaning.left[0]
                cleaning.done.append(done)
                yield from self._clean_next_or_offer(cleaning, now)
            case ipc.ClipboardLarge():
                yield from self.drop(LARGE)
            case ipc.ClipboardFailed(_, untrusted_reason):
                self._cleaning = None
                reason = printable(untrusted_reason, REASON)
                yield self._not_clean(cleaning, reason or FAILED)
            case ipc.ClipboardTypes():
                yield from self.drop(FAILED)
                yield w.Blame(sandbox, "it sent replies out of order")

    def _not_clean(self, cleaning: Cleaning, reason: str) -> w.RecordCrossing:
        """Return the record of content that could not be cleaned."""
        items = (*cleaning.done, *cleaning.left)
        return w.RecordCrossing(
            w.Outcome.REFUSED,
            cleaning.paste.source,
            cleaning.paste.target,
            tuple(item.kind for item in items),
            size_of(items),
            reason,
            cleaning.terms.rule,
            selection=self._selection,
        )

    def drop(self, reason: str) -> Iterator[w.Action]:
        """Stop cleaning the current paste, and record the reason."""
        cleaning, self._cleaning = self._cleaning, None
        if cleaning is not None:
            paste = cleaning.paste
            yield w.WorkerOrder(paste.target, ipc.StopRead(cleaning.transfer))
            yield self._over(w.Outcome.DROPPED, paste.source, paste.target, reason)

    def _over(
        self, outcome: w.Outcome, source: str, target: str, reason: str = ""
    ) -> w.RecordCrossing:
        return w.RecordCrossing(
            outcome, source, target, reason=reason, selection=self._selection
        )

    def _offer(
        self,
        paste: Paste,
        items: tuple[w.Item, ...],
        terms: w.PasteTerms,
        now: float,
    ) -> Iterator[w.Action]:
        """Offer content to the paste's target until its deadline, and record it."""
        before = self._offers.pop(paste.target, None)
        if before is not None:
            yield w.WorkerOrder(paste.target, ipc.Withdraw(before.transfer))
        ttl = ticking(terms.ttl)
        if paste.drop is not None:
            ttl = min(ttl, limits.CLIPBOARD_DROP_SECONDS)
        kinds = tuple(item.kind for item in items)
        self._offers[paste.target] = Offered(
            paste.transfer, paste.source, now + ttl, kinds
        )
        # Recorded before the effect.
        yield w.RecordCrossing(
            w.Outcome.PASTED,
            paste.source,
            paste.target,
            kinds,
            size_of(items),
            rule=terms.rule,
            digest=self._digest(items),
            selection=self._selection,
            window=paste.window,
        )
        drop = 0 if paste.drop is None else paste.drop.number
        primary = terms.primary and not drop
        offer = ipc.Offer(paste.transfer, pieces_of(items), primary, drop)
        yield w.WorkerOrder(paste.target, offer, items)

    def has(self, sandbox: str, transfer: int) -> bool:
        """Return whether that offer is open."""
        offer = self._offers.get(sandbox)
        return offer is not None and offer.transfer == transfer

    def ended(
        self, sandbox: str, event: ipc.OfferEnded | ipc.OfferRefused, last: int
    ) -> Iterator[w.Action]:
        """Forget an offer that the target has ended or refused; a refusal is recorded.

        A number above ``last``, the last one made, is blamed.
        """
        offer = self._offers.get(sandbox)
        if offer is not None and offer.transfer == event.transfer:
            del self._offers[sandbox]
            if isinstance(event, ipc.OfferRefused):
                reason = printable(event.reason, REASON)
                yield self._over(w.Outcome.DROPPED, offer.source, sandbox, reason)
        elif event.transfer > last or event.transfer < 1:
            yield w.Blame(sandbox, "it ended an unknown offer")

    def revoked(self, target: str, event: w.ConsentRevoked) -> Iterator[w.Action]:
        """Withdraw the offer whose permit was cut, and record it."""
        offer = self._offers.get(target)
        if offer is not None and offer.transfer == event.transfer:
            del self._offers[target]
            yield w.WorkerOrder(target, ipc.Withdraw(offer.transfer))
            yield self._over(w.Outcome.DROPPED, offer.source, target, event.reason)

    def moved(self, sandbox: str, reason: str) -> Iterator[w.Action]:
        """A sandbox says that it has the keyboard."""
        # guard: focus moved while it is cleaned
        if self._cleaning is not None and self._cleaning.paste.target != sandbox:
            yield from self.drop(reason)

    def expire(self, now: float) -> Iterator[w.Action]:
        """Drop a cleaning that is late, and withdraw offers that have expired."""
        # guard: a cleaner that stalls
        if self._cleaning is not None and now >= self._cleaning.until:
            yield from self.drop(SLOW)
        # guard: pasted content expires
        late = [target for target, o in self._offers.items() if now >= o.until]
        for target in late:
            offer = self._offers.pop(target)
            yield w.WorkerOrder(target, ipc.Withdraw(offer.transfer))
            yield self._over(w.Outcome.EXPIRED, offer.source, target)

    def gone(self, sandbox: str) -> Iterator[w.Action]:
        """Drop the paste and the offer of a sandbox that has ended."""
        cleaning = self._cleaning
        if cleaning is not None and sandbox in {
            cleaning.paste.source,
            cleaning.paste.target,
        }:
            yield from self.drop(GONE)
        self._offers.pop(sandbox, None)

    # A copy wipes the held content before it succeeds. A user who presses copy and
    # misses the failure would paste old text, believing it to be the new one. If the
    # older text were still held, a secret of another sandbox would come out. A denied
    # paste wipes nothing: it goes nowhere, and the right window is a chord away.
    def wipe(self, outcome: w.Outcome, reason: str) -> Iterator[w.Action]:
        """Withdraw every open offer, and record ``outcome`` and ``reason`` for each."""
        for target in sorted(self._offers):
            offer = self._offers.pop(target)
            yield w.WorkerOrder(target, ipc.Withdraw(offer.transfer))
            yield self._over(outcome, offer.source, target, reason)
