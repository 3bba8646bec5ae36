"""Copy and paste between sandboxes: events in, actions out.

The contract:

* Nothing crosses but by two presses of a chord, each in the sandbox that had
  the keyboard, which no other sandbox claimed.  If another sandbox claims it
  between press and answer, nothing is taken and nothing given.
* One content at a time is held, for a limited time, and wiped by a paste, by
  the next copy (also a failed one: or a paste would give an older secret
  than the user believes), when its sandbox or the link's epoch ends.
* Content of each type is whole or not at all.
* The user's own programs are a party like any other (``words.VIEWER``), but
  hold their selection themselves: a copy chord may set it as well, where a rule
  says so, and a paste chord reads it when nothing was copied by chord.
* A worker is believed only about its sandbox, and only in answers to
  requests.  A compromised worker can claim the focus: while two claim it, no
  sandbox has it.  It can therefore hinder chords, but visibly.
* A drag crosses by its drop, which both workers have to have seen (``drags``);
  it is read then, and decided, as a copy and a paste are, and touches neither
  the held content nor the target's clipboard.

Memory: one content held, one being read or cleaned, one offer for each target
that has not expired.  Python cannot overwrite ``bytes``; wiped means not reachable.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.core.clipboard.types import Pick
from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import drags
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.content import (
    HeldContent,
    crossing,
    may_cross,
    ticking,
)
from broker.viewer.clipboard.exchange.operations import (
    Copy,
    Drop,
    Paste,
    TransferStatus,
)
from broker.viewer.clipboard.exchange.reading import SelectionReader
from broker.viewer.clipboard.exchange.reasons import (
    BUSY,
    CLEARED,
    DRAG_TWICE,
    EPOCH,
    GONE,
    MOVED,
    NEWER,
    NO_FOCUS,
    NO_TYPE,
    NOTHING,
    OLD,
    REPLACED,
    SAME,
    SLOW,
    UNDECIDED,
)


class Crossing(SelectionReader):
    """The one clipboard between the sandboxes of a viewer.

    Time is any clock that does not go back, in seconds.  Feed ``Ticked`` when
    ``deadline`` has come.
    """

    # -- the face -----------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """Return when ``Ticked`` has to be posted next; None if it need not be."""
        times = self._giving.times + self._drops.times + self._drags.times
        times += [x.until for x in (self._copy, self._held, self._paste) if x]
        if self._exports.deadline is not None:
            times.append(self._exports.deadline)
        return min(times, default=None)

    @property
    def undecided(self) -> set[int]:
        """The transfers about which policy was asked, and may still answer."""
        asked = self._exports.undecided
        return asked if self._paste is None else {self._paste.transfer, *asked}

    @property
    def standing(self) -> tuple[tuple[str, int, str, tuple[str, ...]], ...]:
        """Target, transfer, source and types of each open offer."""
        return self._giving.standing + self._drops.standing

    def dragged_by(self, mark: str) -> str:
        """The sandbox whose drag has this mark; empty where it is unknown."""
        return self._drags.source_of(mark)

    def status(self, now: float) -> TransferStatus:
        """Return the held content's size, types and time left, and the open offers."""
        offered = self._giving.offered(now)
        exported = self._exports.source
        if self._held is None:
            return TransferStatus(offered=offered, exported=exported)
        held = self._held
        left = held.until - now
        return TransferStatus(
            held.source, held.kinds, held.size, left, offered, exported
        )

    def feed(self, sandbox: str, event: w.Event, now: float) -> list[w.Action]:
        """Handle one event; return the actions, to be done in this order.

        ``sandbox`` is the one that it is about; empty for what is about none.
        """
        out = list(self._expire(now))
        if isinstance(event, w.DragEvent):
            return [*out, *self._dragged(sandbox, event, now)]
        if isinstance(event, w.GivenEvent):
            return [*out, *self._over(sandbox, event)]
        match event:
            case ipc.ClipboardFocus(taken):
                out += self._focus(sandbox, taken=taken, now=now)
            case w.CopyPressed():
                out += self._copy_pressed(sandbox, event, now)
            case w.PastePressed():
                out += self._paste_pressed(sandbox, event, now)
            case w.Decided():
                out += self._decided(event, now)
            case w.SandboxGone():
                out += self._sandbox_gone(sandbox)
            case w.EpochChanged() | w.Cleared():
                out += self._wipe_all(event)
            case w.Ticked():  # due work was done above
                pass
            case _:
                out += self._worker_said(sandbox, event, now)
        return out

    def _over(self, sandbox: str, event: w.GivenEvent) -> Iterator[w.Action]:
        """Handle the end of an offer, an export or a permit."""
        match event:
            case ipc.OfferEnded(transfer) | ipc.OfferRefused(transfer):
                dropped = self._drops.has(sandbox, transfer)
                giving = self._drops if dropped else self._giving
                yield from giving.ended(sandbox, event, self._last)
            case w.ConsentRevoked():
                yield from self._giving.revoked(sandbox, event)
                yield from self._drops.revoked(sandbox, event)
            case ipc.Exported():
                yield from self._exports.exported(sandbox, event)
            case ipc.ExportEnded(transfer, replaced):
                exported = self._exports.content
                self._exports.ended(sandbox, transfer)
                is_over = replaced and exported is not self._exports.content
                # guard: the user's newer copy replaces exported content
                if is_over and exported is self._held:
                    self._held = None

    # -- focus ----------------------------------------------------------------------------

    def _focus(self, sandbox: str, *, taken: bool, now: float) -> Iterator[w.Action]:
        """Handle that a sandbox claims the keyboard focus or gives it up."""
        if taken != (sandbox in self._claims):
            self._focus_change = sandbox, now
        if taken:
            self._claims.add(sandbox)
            yield from self._moved(sandbox)
        else:
            # To no sandbox: to our dialog, or to the user's own programs.
            self._claims.discard(sandbox)
        copy = self._copy
        if copy is not None and copy.waiting and self.focused == copy.reader:
            copy.waiting = False
            yield from self._read_next(copy, now)
        yield from self._exports.go_on(self.focused, now)

    def _moved(self, sandbox: str) -> Iterator[w.Action]:
        """Drop copies and pastes that are in progress in other sandboxes."""
        # A drop goes where it was made, wherever the keyboard is.
        copy, paste = self._copy, self._paste
        # guard: focus moved while copying
        if copy is not None and not copy.drop and copy.reader != sandbox:
            yield from self._drop_copy(MOVED)
        # guard: focus taken while policy thinks
        # guard: focus moved while policy thinks
        if paste is not None and not paste.drop and paste.target != sandbox:
            yield from self._drop_paste(MOVED)
        yield from self._giving.moved(sandbox, MOVED)
        yield from self._exports.taken(sandbox)

    def _why_not(self, sandbox: str, now: float) -> str:
        """Return why a sandbox's chord does not count; empty if it does."""
        # guard: only a sandbox that has the focus copies or pastes
        if sandbox not in self._claims:
            return NO_FOCUS
        others = sorted(self._claims - {sandbox})
        # guard: two workers and one focus
        # guard: two claims of the focus
        if others:
            return f"another sandbox also claims the keyboard focus: {others[0]}"
        name, changed_at = self._focus_change
        # guard: a chord does not count right after a change of the focus
        if now - changed_at < limits.CLIPBOARD_FOCUS_SECONDS:
            return f"the keyboard focus of {name} has changed just now: press the keys again"
        return ""

    # -- copy -------------------------------------------------------------------------------

    def _copy_pressed(
        self, source: str, event: w.CopyPressed, now: float
    ) -> Iterator[w.Action]:
        """Handle the copy chord: start to read the selection, or record a refusal."""
        # guard: one copy at a time
        reason = self._why_not(source, now) or (BUSY if self._copy else "")
        if reason:
            yield w.RecordCrossing(w.Outcome.REFUSED, source, reason=reason)
            return
        # guard: wiped by the next copy
        self._held = None
        if self._paste is not None and not self._paste.drop:
            yield from self._drop_paste(REPLACED)
        yield from self._giving.drop(REPLACED)
        yield from self._exports.drop(REPLACED)
        self._copy = Copy(
            self._number(),
            source,
            source,
            event.terms,
            now + limits.CLIPBOARD_COPY_SECONDS,
            event.press,
            event.outward,
            window=event.window,
            desktop=event.desktop,
        )
        yield w.WorkerOrder(source, ipc.AskTypes(self._copy.transfer))

    # -- paste --------------------------------------------------------------------------------

    def _paste_pressed(
        self, target: str, event: w.PastePressed, now: float
    ) -> Iterator[w.Action]:
        """Handle the paste chord: ask policy about the held content, or refuse."""
        host, held = event.host, self._held
        reason = self._why_not(target, now)
        # guard: one paste at a time
        if not reason and (self._paste is not None or self._giving.busy):
            reason = BUSY
        elif not reason and self._is_outdated(held, event.desktop):
            # guard: the user's newer copy replaces held content
            self._held = held = None
            reason = NEWER if host is None else ""
        elif not reason and held is None:
            # guard: only a press that a rule permits reads the user's clipboard
            reason = NOTHING if host is None else BUSY if self._copy else ""
        elif not reason and held is not None and held.source == target:
            reason = SAME
        if reason:
            source = held.source if held else ""
            yield w.RecordCrossing(w.Outcome.REFUSED, source, target, reason=reason)
        elif held is not None and held.files:
            # guard: files are pasted once
            self._held = None
            yield w.CarryFiles(self._number(), held.source, target, held.files)
        elif held is not None:
            until = min(held.until, now + limits.CLIPBOARD_DECIDE_SECONDS)
            self._paste = Paste(
                self._number(), held.source, target, until, window=held.window
            )
            kinds = tuple((item.kind, len(item.data)) for item in held.items)
            yield w.AskPolicy(self._paste.transfer, held.source, target, kinds)
        elif host is not None:
            until = now + limits.CLIPBOARD_COPY_SECONDS
            number = self._number()
            self._copy = Copy(number, w.VIEWER, target, host, until)
            yield w.WorkerOrder(target, ipc.AskTypes(number, host=True))

    def _is_outdated(self, content: HeldContent | None, desktop: str) -> bool:
        """Return whether the user's own programs have copied since content was held.

        Their selection has other types then.  A copy with the same types is not noticed.
        """
        if content is None or content is self._exports.content:
            return False  # an exported one ends when something newer is copied
        return bool(desktop) and desktop != content.desktop

    def _decided(self, event: w.Decided, now: float) -> Iterator[w.Action]:
        """Handle the policy's decision on a paste: give the content, or refuse."""
        paste = self._paste
        # guard: a decision belongs to the present paste
        if paste is None or event.transfer != paste.transfer:
            # Given up meanwhile, and recorded then; or it is about an export.
            yield from self._exports.decided(event, self.focused, now)
            return
        self._paste = None
        if paste.source == w.VIEWER:
            yield from self._host_decided(paste, event, now)
            return
        if paste.drop is not None:
            yield from self._drop_decided(paste, paste.drop, event, now)
            return
        held, terms = self._held, event.terms
        if held is None:
            return
        items: tuple[w.Item, ...] = ()
        reason = event.reason or "no rule allows it"
        if terms is not None:
            items, reason = crossing(held.items, terms)
            # guard: age of a rule
            if now - held.since > ticking(terms.ttl):
                items, reason = (), OLD
        if terms is None or not items:
            # It stays: another window may have been meant.
            yield w.RecordCrossing(
                w.Outcome.REFUSED,
                paste.source,
                paste.target,
                held.kinds,
                held.size,
                reason,
                terms.rule if terms else "",
                by_policy=terms is None,
            )
            return
        # guard: wiped by a paste
        self._held = None
        yield from self._giving.give(paste, terms, items, now)

    def _host_decided(
        self, paste: Paste, event: w.Decided, now: float
    ) -> Iterator[w.Action]:
        """Handle the decision on the user's own selection: read its permitted types."""
        copy, terms = self._copy, event.terms
        if copy is None:
            return
        picks: list[Pick] = []
        if terms is not None:
            # guard: a rule limits the types that are read from the user's clipboard
            picks = [pick for pick in copy.left if may_cross(pick.kind, terms)]
        if terms is None or not picks:
            self._copy = None
            if paste.drop is not None:
                yield w.WorkerOrder(paste.target, ipc.EndDrag(paste.drop.number))
            yield w.RecordCrossing(
                w.Outcome.REFUSED,
                w.VIEWER,
                paste.target,
                tuple(pick.kind for pick in copy.left),
                reason=event.reason or NO_TYPE,
                rule=terms.rule if terms else "",
                selection="drag" if paste.drop else "clipboard",
                by_policy=terms is None,
            )
            return
        copy.left, copy.into = picks, (paste, terms)
        copy.until = now + limits.CLIPBOARD_COPY_SECONDS
        # guard: the user's clipboard is read while the reader has the focus
        if copy.drop is not None or self.focused == copy.reader:
            yield from self._read_next(copy, now)
        else:
            copy.waiting = True

    # -- drags --------------------------------------------------------------------------------

    def _dragged(
        self, sandbox: str, event: w.DragEvent, now: float
    ) -> Iterator[w.Action]:
        """Handle an event of a drag; start to read content that was dropped."""
        # guard: a drop that another claims late
        if self._drags.also_claims(sandbox, event, self._dropping):
            yield from self._drop_dropped()
        actions, drop = self._drags.feed(sandbox, event, now)
        yield from actions
        if drop is None:
            return
        if self._copy or self._paste or self._giving.busy or self._drops.busy:
            yield w.WorkerOrder(drop.seen_by, ipc.EndDrag(drop.number))
            yield drags.refused(drop.source, drop.target, BUSY)
            return
        self._copy, asks = drags.begin(drop, self._number(), now)
        yield asks

    @property
    def _dropping(self) -> Drop | None:
        """The drop that is under way, if one is."""
        for step in (self._copy, self._paste):
            if step is not None and step.drop is not None:
                return step.drop
        return self._drops.cleaned_for

    def _drop_dropped(self) -> Iterator[w.Action]:
        """Give up the drag whose drop two sandboxes reported."""
        if self._copy is not None and self._copy.drop is not None:
            yield from self._drop_copy(DRAG_TWICE)
        if self._paste is not None and self._paste.drop is not None:
            yield from self._drop_paste(DRAG_TWICE)
        yield from self._drops.drop(DRAG_TWICE)

    def _drop_decided(
        self, paste: Paste, drop: Drop, event: w.Decided, now: float
    ) -> Iterator[w.Action]:
        """Give dropped content to its target, or record the refusal."""
        terms = event.terms
        items = crossing(paste.items, terms)[0] if terms else ()
        if terms is not None and items and drop.target != w.VIEWER:
            yield from self._drops.give(paste, terms, items, now)
        else:
            yield from drags.decided(drop, paste.items, event, self._digest)

    # -- ends -----------------------------------------------------------------------------------

    def _expire(self, now: float) -> Iterator[w.Action]:
        """Drop what is past its deadline: copy, paste, held content, drags."""
        # guard: policy that does not answer
        if self._paste is not None and now >= self._paste.until:
            yield from self._drop_paste(UNDECIDED)
        # guard: a source that stalls
        if self._copy is not None and now >= self._copy.until:
            yield from self._drop_copy(SLOW)
        # guard: copied content expires
        if self._held is not None and now >= self._held.until:
            held, self._held = self._held, None
            yield w.RecordCrossing(
                w.Outcome.EXPIRED, held.source, kinds=held.kinds, size=held.size
            )
        yield from self._giving.expire(now)
        yield from self._drops.expire(now)
        yield from self._drags.expire(now)
        yield from self._exports.expire(now)

    def _sandbox_gone(self, sandbox: str) -> Iterator[w.Action]:
        """Forget the content, copies, pastes and drags of an ended sandbox."""
        self._claims.discard(sandbox)
        copy = self._copy
        if copy is not None and sandbox in {copy.reader, copy.target}:
            yield from self._drop_copy(GONE)
        paste = self._paste
        if paste is not None and sandbox in {paste.source, paste.target}:
            yield from self._drop_paste(GONE)
        # guard: wiped with its source
        if self._held is not None and self._held.source == sandbox:
            # Its name may be another's before this is pasted.
            self._held = None
            yield w.RecordCrossing(w.Outcome.DROPPED, sandbox, reason=GONE)
        yield from self._giving.gone(sandbox)
        yield from self._drops.gone(sandbox)
        yield from self._drags.gone(sandbox)
        yield from self._exports.gone(sandbox)

    def _wipe_all(self, event: w.EpochChanged | w.Cleared) -> Iterator[w.Action]:
        """Wipe all content, as the user or a change of policy demands."""
        outcome, reason = w.Outcome.DROPPED, EPOCH
        if isinstance(event, w.Cleared):
            outcome, reason = w.Outcome.CLEARED, CLEARED
        yield from self._drop_copy(reason)
        yield from self._drop_paste(reason)
        yield from self._giving.drop(reason)
        yield from self._exports.drop(reason)
        yield from self._exports.withdraw(outcome, reason)
        if self._held is not None:
            held, self._held = self._held, None
            yield w.RecordCrossing(
                outcome, held.source, "", held.kinds, held.size, reason=reason
            )
        yield from self._giving.wipe(outcome, reason)
        yield from self._drops.drop(reason)
        yield from self._drops.wipe(outcome, reason)
        yield from self._drags.wipe()
