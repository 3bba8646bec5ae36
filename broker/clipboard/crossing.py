"""Copy and paste between sandboxes: events in, actions out.

The contract:

* Nothing crosses but by two presses of a chord, each in the sandbox that had
  the keyboard, which nobody else claimed.  If another sandbox
  claims it between press and answer, nothing is taken and nothing given.
* One content at a time is held, for a limited time, and wiped by a paste, by
  the next copy (also one that fails: or a paste would give an older secret
  than the person believes), when its sandbox or the link's epoch ends.
* Content of each type is whole or not at all.
* A worker is believed only about its own sandbox, and only about what it was
  asked.  A worker that was taken over can claim the focus: while two claim
  it, nobody has it.  It can therefore hinder chords, and be seen to.

Memory: one content held, one being read, one offer for each target that has
not expired.  Python cannot overwrite ``bytes``; wiped means not reachable.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.clipboard import words as w
from broker.clipboard.cleaning import clean_text
from broker.clipboard.types import TEXT, Pick, choose, fits
from broker.core import limits
from broker.core.errors import PeerError

NO_FOCUS = "the sandbox has not got the keyboard focus"
BUSY = "one is under way already"
MOVED = "the focus went to another sandbox meanwhile"
NOTHING = "nothing was copied, or its time is over"
EMPTY = "the sandbox has nothing copied, or no type that may cross"
LARGE = "it is larger than may cross"
SLOW = "the sandbox did not give it in time"
FAILED = "the sandbox took it back while it was read"
SAME = "it is the sandbox's own: paste it as usual"
UNDECIDED = "nobody decided in time"
REPLACED = "it was wiped meanwhile"
GONE = "the sandbox ended"
EPOCH = "the link to the host is a new one"
CLEARED = "the person cleared the clipboard"
NO_TYPE = "no type of it may cross"
CLEANED = "nothing is left of it after cleaning"
IMAGES = "images cannot be written anew yet, and the record wants that"


@dataclass
class _Copy:
    """A copy under way."""

    transfer: int
    source: str
    terms: w.CopyTerms
    until: float
    reading: Pick | None = None
    left: list[Pick] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    items: list[w.Item] = field(default_factory=list)
    size: int = 0
    """Bytes of ``items``."""
    too_large: bool = False
    """A kind was left out for its size."""


@dataclass(frozen=True)
class _Held:
    """What was copied, until it is pasted."""

    source: str
    items: tuple[w.Item, ...]
    until: float

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(item.kind for item in self.items)

    @property
    def size(self) -> int:
        return sum(len(item.data) for item in self.items)


@dataclass(frozen=True)
class _Paste:
    """A paste that waits for policy's answer."""

    transfer: int
    source: str
    target: str
    until: float


@dataclass(frozen=True)
class _Offered:
    """What a target's filter serves."""

    transfer: int
    source: str
    until: float


@dataclass(frozen=True)
class Status:
    """For ``brokerctl clipboard status``: no content."""

    source: str = ""
    kinds: tuple[str, ...] = ()
    size: int = 0
    seconds: float = 0.0
    """Until it is wiped."""
    offered: tuple[tuple[str, str, float], ...] = ()
    """Source, target and seconds left of each paste that may still be taken."""


class Crossing:
    """The one clipboard between the sandboxes of a viewer.

    Time is any clock that does not go back, in seconds.  Feed ``Ticked`` when
    ``deadline`` has come.
    """

    def __init__(self, digest_key: bytes | None = None) -> None:
        self._key = digest_key
        self._claims: set[str] = set()
        self._copy: _Copy | None = None
        self._held: _Held | None = None
        self._paste: _Paste | None = None
        self._offers: dict[str, _Offered] = {}
        self._last = 0

    # -- the face -----------------------------------------------------------------------

    @property
    def focused(self) -> str | None:
        """Who has the keyboard, if exactly one says so."""
        return next(iter(self._claims)) if len(self._claims) == 1 else None

    @property
    def deadline(self) -> float | None:
        """When ``Ticked`` is due."""
        times = [offer.until for offer in self._offers.values()]
        times += [x.until for x in (self._copy, self._held, self._paste) if x]
        return min(times, default=None)

    def status(self, now: float) -> Status:
        """What is held and what is on offer."""
        offered = tuple(
            (offer.source, target, offer.until - now)
            for target, offer in sorted(self._offers.items())
        )
        if self._held is None:
            return Status(offered=offered)
        held = self._held
        left = held.until - now
        return Status(held.source, held.kinds, held.size, left, offered)

    def feed(self, event: w.Event, now: float) -> list[w.Action]:
        """Take one event; the actions are to be done in this order."""
        out = list(self._expire(now))
        match event:
            case w.FocusTaken() | w.FocusGone():
                out += self._focus(event)
            case w.CopyPressed():
                out += self._copy_pressed(event, now)
            case w.PastePressed():
                out += self._paste_pressed(event.sandbox, now)
            case (
                w.TypesTold()
                | w.DataCame()
                | w.DataEnded()
                | w.DataTooLarge()
                | w.SourceFailed()
            ):
                out += self._source_said(event, now)
            case w.Decided():
                out += self._decided(event, now)
            case w.OfferEnded():
                out += self._offer_ended(event)
            case w.SandboxGone():
                out += self._sandbox_gone(event.sandbox)
            case w.EpochChanged() | w.Cleared():
                out += self._wipe_all(event)
            case w.Ticked():  # what is due was done above
                pass
        return out

    # -- focus ----------------------------------------------------------------------------

    def _focus(self, event: w.FocusTaken | w.FocusGone) -> Iterator[w.Action]:
        if isinstance(event, w.FocusGone):
            # To no sandbox: to a dialog of ours, or to the person's own programs.
            self._claims.discard(event.sandbox)
            return
        self._claims.add(event.sandbox)
        if self._copy is not None and self._copy.source != event.sandbox:
            yield from self._drop_copy(MOVED)
        if self._paste is not None and self._paste.target != event.sandbox:
            yield from self._drop_paste(MOVED)

    def _why_not(self, sandbox: str) -> str:
        """Why a chord of this sandbox's does not count; empty if it does."""
        if sandbox not in self._claims:
            return NO_FOCUS
        others = sorted(self._claims - {sandbox})
        if others:
            return f"another sandbox claims the keyboard focus as well: {others[0]}"
        return ""

    # -- copy -------------------------------------------------------------------------------

    def _copy_pressed(self, event: w.CopyPressed, now: float) -> Iterator[w.Action]:
        source = event.sandbox
        reason = self._why_not(source) or (BUSY if self._copy else "")
        if reason:
            yield w.Record(w.Outcome.REFUSED, source, reason=reason)
            return
        self._held = None
        if self._paste is not None:
            yield from self._drop_paste(REPLACED)
        until = now + limits.CLIPBOARD_COPY_SECONDS
        self._copy = _Copy(self._number(), source, event.terms, until)
        yield w.AskTypes(source, self._copy.transfer)

    def _source_said(
        self,
        event: w.TypesTold | w.DataCame | w.DataEnded | w.DataTooLarge | w.SourceFailed,
        now: float,
    ) -> Iterator[w.Action]:
        copy = self._copy
        if copy is None or event.transfer != copy.transfer:
            if event.transfer > self._last or event.transfer < 1:
                yield w.Blame(event.sandbox, "it answers what nobody asked")
            return  # else late: it was given up, or is over
        if event.sandbox != copy.source:
            yield w.Blame(event.sandbox, "it answers what another sandbox was asked")
            return
        if isinstance(event, w.TypesTold) != (copy.reading is None) and not isinstance(
            event, w.SourceFailed
        ):
            yield from self._drop_copy(FAILED)
            yield w.Blame(event.sandbox, "its answers come in no order")
            return
        match event:
            case w.TypesTold():
                yield from self._types_told(copy, event, now)
            case w.DataCame():
                yield from self._data_came(copy, event.untrusted_data, now)
            case w.DataEnded():
                yield from self._data_ended(copy, now)
            case w.DataTooLarge():
                copy.too_large = True
                yield from self._read_next(copy, now)
            case w.SourceFailed():
                yield from self._drop_copy(FAILED)

    def _types_told(
        self, copy: _Copy, event: w.TypesTold, now: float
    ) -> Iterator[w.Action]:
        try:
            copy.left = list(choose(event.untrusted_types, copy.terms.patterns))
        except PeerError as error:
            yield from self._drop_copy(error.message)
            yield w.Blame(copy.source, error.message)
            return
        yield from self._read_next(copy, now)

    def _read_next(self, copy: _Copy, now: float) -> Iterator[w.Action]:
        room = _most(copy.terms.max_bytes) - copy.size
        if copy.left:
            copy.reading = copy.left.pop(0)
            copy.data = bytearray()
            # A number for each type: what comes late of one is not another's.
            copy.transfer = self._number()
            yield w.Read(copy.source, copy.transfer, copy.reading.name, room)
            return
        if not copy.items:
            yield from self._drop_copy(LARGE if copy.too_large else EMPTY)
            return
        ttl = min(copy.terms.ttl, limits.CLIPBOARD_SECONDS_MOST)
        held = _Held(copy.source, tuple(copy.items), now + ttl)
        self._held, self._copy = held, None
        yield w.Record(
            w.Outcome.COPIED,
            held.source,
            kinds=held.kinds,
            size=held.size,
            digest=self._digest(held.items),
        )

    def _data_came(
        self, copy: _Copy, untrusted_data: bytes, now: float
    ) -> Iterator[w.Action]:
        room = _most(copy.terms.max_bytes) - copy.size
        if len(copy.data) + len(untrusted_data) <= room:
            copy.data += untrusted_data
            return
        # This type is left out whole: half a command is another command.
        copy.too_large = True
        yield w.Stop(copy.source, copy.transfer)
        yield from self._read_next(copy, now)

    def _data_ended(self, copy: _Copy, now: float) -> Iterator[w.Action]:
        if copy.reading is not None and copy.data:
            copy.items.append(w.Item(copy.reading.kind, bytes(copy.data)))
            copy.size += len(copy.data)
        yield from self._read_next(copy, now)

    def _drop_copy(self, reason: str) -> Iterator[w.Action]:
        copy, self._copy = self._copy, None
        if copy is not None:
            yield w.Stop(copy.source, copy.transfer)
            yield w.Record(w.Outcome.DROPPED, copy.source, reason=reason)

    # -- paste --------------------------------------------------------------------------------

    def _paste_pressed(self, target: str, now: float) -> Iterator[w.Action]:
        held = self._held
        reason = self._why_not(target)
        if not reason and self._paste is not None:
            reason = BUSY
        elif not reason and held is None:
            reason = NOTHING
        elif not reason and held is not None and held.source == target:
            reason = SAME
        if reason or held is None:
            source = held.source if held else ""
            yield w.Record(w.Outcome.REFUSED, source, target, reason=reason)
            return
        until = min(held.until, now + limits.CLIPBOARD_DECIDE_SECONDS)
        self._paste = _Paste(self._number(), held.source, target, until)
        kinds = tuple((item.kind, len(item.data)) for item in held.items)
        yield w.AskPolicy(self._paste.transfer, held.source, target, kinds)

    def _decided(self, event: w.Decided, now: float) -> Iterator[w.Action]:
        paste, held = self._paste, self._held
        if paste is None or held is None or event.transfer != paste.transfer:
            return  # given up meanwhile, and recorded then
        self._paste = None
        terms = event.terms
        reason = event.reason or "no rule allows it"
        items: tuple[w.Item, ...] = ()
        if terms is not None:
            items, reason = _crossing(held.items, terms)
        if terms is None or not items:
            # It stays: another window may have been meant.
            yield w.Record(
                w.Outcome.REFUSED,
                paste.source,
                paste.target,
                held.kinds,
                held.size,
                reason,
                terms.rule if terms else "",
            )
            return
        self._held = None
        yield from self._offer(paste, items, terms, now)

    def _offer(
        self,
        paste: _Paste,
        items: tuple[w.Item, ...],
        terms: w.PasteTerms,
        now: float,
    ) -> Iterator[w.Action]:
        before = self._offers.pop(paste.target, None)
        if before is not None:
            yield w.Withdraw(paste.target, before.transfer)
        ttl = min(terms.ttl, limits.CLIPBOARD_SECONDS_MOST)
        self._offers[paste.target] = _Offered(paste.transfer, paste.source, now + ttl)
        # Recorded before the effect.
        yield w.Record(
            w.Outcome.PASTED,
            paste.source,
            paste.target,
            tuple(item.kind for item in items),
            sum(len(item.data) for item in items),
            rule=terms.rule,
            digest=self._digest(items),
        )
        yield w.Offer(paste.target, paste.transfer, paste.source, items, ttl)

    def _offer_ended(self, event: w.OfferEnded) -> Iterator[w.Action]:
        offer = self._offers.get(event.sandbox)
        if offer is not None and offer.transfer == event.transfer:
            del self._offers[event.sandbox]
        elif event.transfer > self._last or event.transfer < 1:
            yield w.Blame(event.sandbox, "it ends an offer that nobody made")

    def _drop_paste(self, reason: str) -> Iterator[w.Action]:
        paste, self._paste = self._paste, None
        if paste is not None:
            yield w.Record(w.Outcome.DROPPED, paste.source, paste.target, reason=reason)

    # -- ends -----------------------------------------------------------------------------------

    def _expire(self, now: float) -> Iterator[w.Action]:
        if self._copy is not None and now >= self._copy.until:
            yield from self._drop_copy(SLOW)
        if self._paste is not None and now >= self._paste.until:
            yield from self._drop_paste(UNDECIDED)
        if self._held is not None and now >= self._held.until:
            held, self._held = self._held, None
            yield w.Record(
                w.Outcome.EXPIRED, held.source, kinds=held.kinds, size=held.size
            )
        late = [target for target, o in self._offers.items() if now >= o.until]
        for target in late:
            offer = self._offers.pop(target)
            yield w.Withdraw(target, offer.transfer)
            yield w.Record(w.Outcome.EXPIRED, offer.source, target)

    def _sandbox_gone(self, sandbox: str) -> Iterator[w.Action]:
        self._claims.discard(sandbox)
        if self._copy is not None and self._copy.source == sandbox:
            yield from self._drop_copy(GONE)
        if self._paste is not None and sandbox in {
            self._paste.source,
            self._paste.target,
        }:
            yield from self._drop_paste(GONE)
        if self._held is not None and self._held.source == sandbox:
            # Its name may be another's before this is pasted.
            self._held = None
            yield w.Record(w.Outcome.DROPPED, sandbox, reason=GONE)
        self._offers.pop(sandbox, None)

    def _wipe_all(self, event: w.EpochChanged | w.Cleared) -> Iterator[w.Action]:
        outcome, reason = w.Outcome.DROPPED, EPOCH
        if isinstance(event, w.Cleared):
            outcome, reason = w.Outcome.CLEARED, CLEARED
        yield from self._drop_copy(reason)
        yield from self._drop_paste(reason)
        if self._held is not None:
            held, self._held = self._held, None
            yield w.Record(
                outcome, held.source, "", held.kinds, held.size, reason=reason
            )
        for target in sorted(self._offers):
            offer = self._offers.pop(target)
            yield w.Withdraw(target, offer.transfer)
            yield w.Record(outcome, offer.source, target, reason=reason)

    def _number(self) -> int:
        self._last += 1
        return self._last

    def _digest(self, items: tuple[w.Item, ...]) -> str:
        if self._key is None:
            return ""
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for item in items:
            # Lengths first, so that no two contents are one text to the hash.
            mac.update(f"{item.kind} {len(item.data)} ".encode() + item.data)
        return mac.hexdigest()


def _most(max_bytes: int) -> int:
    return min(max_bytes, limits.CLIPBOARD_BYTES_MOST)


def _crossing(
    items: tuple[w.Item, ...], terms: w.PasteTerms
) -> tuple[tuple[w.Item, ...], str]:
    """What of the content crosses under these terms; or nothing, and why."""
    allowed = [item for item in items if fits(item.kind, terms.patterns)]
    reason = NO_TYPE
    if "plain" in terms.clean:
        allowed = [item for item in allowed if item.kind == TEXT]
    if "images" in terms.clean and any(_is_image(item) for item in allowed):
        reason = IMAGES
        allowed = [item for item in allowed if not _is_image(item)]
    if sum(len(item.data) for item in allowed) > _most(terms.max_bytes):
        return (), LARGE
    if "controls" in terms.clean:
        try:
            allowed = [_cleaned(item) for item in allowed]
        except PeerError as error:
            return (), error.message
        if allowed and not any(item.data for item in allowed):
            return (), CLEANED
    return tuple(item for item in allowed if item.data), reason


def _is_image(item: w.Item) -> bool:
    return item.kind.startswith("image/")


def _cleaned(item: w.Item) -> w.Item:
    if not item.kind.startswith("text/"):
        return item
    return w.Item(item.kind, clean_text(item.data))
