"""Whatever workers, people and policy say in whatever order.

A separate model keeps who has the focus, what each sandbox really gave and
what policy really allowed; the core must never give more.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.broker import Crossing
from tests.broker.viewer.clipboard.exchange.test_broker import is_order

BOXES = st.sampled_from(["work", "personal", "evil"])
NUMBERS = st.integers(-1, 12)
TYPES = st.lists(
    st.sampled_from(["text/plain", "image/png", "text/html", "text/uri-list", "\0"])
)
SIZE = 40
TERMS = w.CopyTerms(("text/plain", "image/png"), SIZE, 50.0)


class Anything(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = Crossing()
        self.now = 0.0
        self.claims: set[str] = set()
        self.pressed: dict[str, float] = {}
        self.undisturbed: dict[int, str] = {}
        self.reads: dict[int, str] = {}
        self.asked: dict[int, w.AskPolicy] = {}
        self.offers: dict[str, tuple[int, float]] = {}
        self.given: dict[str, list[bytes]] = {}

    def say(self, event: tuple[str, w.Event]) -> list[w.Action]:
        out = self.core.feed(*event, self.now)
        for action in out:
            self.note(action, event)
        return out

    def note(self, action: w.Action, event: tuple[str, w.Event]) -> None:
        match action:
            case w.WorkerOrder(message=ipc.AskTypes()):
                assert self.claims == {action.sandbox}
                assert event == (action.sandbox, w.CopyPressed(TERMS))
            case w.WorkerOrder(_, ipc.ReadType(transfer, name, max_bytes)):
                assert max_bytes <= SIZE
                # A list of copied files is read, too; its files go another way.
                assert name in {"text/plain", "image/png", "text/uri-list"}
                self.reads[transfer] = action.sandbox
            case w.AskPolicy():
                assert self.claims == {action.target}
                assert event == (action.target, w.PastePressed())
                assert action.source != action.target
                assert sum(size for _, size in action.kinds) <= SIZE
                self.asked[action.transfer] = action
                self.undisturbed[action.transfer] = action.target
            case w.WorkerOrder(message=ipc.Offer()):
                self.offered(action, event)
            case w.WorkerOrder(_, ipc.Withdraw(transfer)):
                number, _ = self.offers.pop(action.sandbox)
                assert number == transfer
            case w.Blame():
                assert event[0] == action.sandbox

    def offered(self, offer: w.WorkerOrder, event: tuple[str, w.Event]) -> None:
        """Only content that was requested, is allowed now, and is unchanged since the press."""
        _, decided = event
        assert isinstance(decided, w.Decided)
        assert decided.terms is not None
        asked = self.asked.pop(decided.transfer)
        status = self.core.status(self.now)
        ((source, left),) = (
            (source, left)
            for source, target, left in status.offered
            if target == offer.sandbox
        )
        assert (asked.source, asked.target) == (source, offer.sandbox)
        assert self.undisturbed.get(decided.transfer) == offer.sandbox
        for item in offer.items:
            assert (item.kind, len(item.data)) in asked.kinds
            assert item.kind in decided.terms.patterns
            # Each byte was the source's own.
            assert set(item.data.decode()) == {source[0]}
        assert sum(len(i.data) for i in offer.items) <= decided.terms.max_bytes
        assert status.source == ""
        self.offers[offer.sandbox] = (offer.message.transfer, self.now + left)

    @rule(box=BOXES)
    def focus_taken(self, box):
        self.claims.add(box)
        for number, target in list(self.undisturbed.items()):
            if target != box:
                del self.undisturbed[number]
        self.say((box, ipc.ClipboardFocus(taken=True)))

    @rule(box=BOXES)
    def focus_gone(self, box):
        self.claims.discard(box)
        self.say((box, ipc.ClipboardFocus(taken=False)))

    @rule(box=BOXES)
    def only_focus(self, box):
        for other in sorted(self.claims - {box}):
            self.focus_gone(other)
        self.focus_taken(box)

    @rule(box=BOXES)
    def copy(self, box):
        self.say((box, w.CopyPressed(TERMS)))

    @rule(box=BOXES)
    def paste(self, box):
        self.say((box, w.PastePressed()))

    @rule(box=BOXES, number=NUMBERS, types=TYPES)
    def types(self, box, number, types):
        self.say((box, ipc.ClipboardTypes(number, tuple(types))))

    @rule(box=BOXES, number=NUMBERS, size=st.integers(0, SIZE + 1))
    def data(self, box, number, size):
        self.say((box, w.CheckedContent(number, box[0].encode() * size)))

    @rule(box=BOXES, number=NUMBERS)
    def failed(self, box, number):
        self.say((box, ipc.ClipboardFailed(number, "")))

    @rule(box=BOXES, number=NUMBERS)
    def offer_ended(self, box, number):
        if box in self.offers and self.offers[box][0] == number:
            del self.offers[box]
        self.say((box, ipc.OfferEnded(number)))

    @rule(number=NUMBERS, most=st.integers(0, SIZE), yes=st.booleans())
    def decided(self, number, most, yes):
        terms = w.PasteTerms(("text/plain",), most, 20.0) if yes else None
        self.say(("", w.Decided(number, terms)))

    @rule(box=BOXES, size=st.integers(1, SIZE))
    def honest_copy(self, box, size):
        """A whole copy, as random words rarely make one."""
        self.only_focus(box)
        asks = [
            a.message
            for a in self.say((box, w.CopyPressed(TERMS)))
            if is_order(a, ipc.AskTypes)
        ]
        if not asks:
            return
        (read,) = self.say(
            (box, ipc.ClipboardTypes(asks[0].transfer, ("STRING", "text/plain")))
        )
        self.data(box, read.message.transfer, size)
        assert self.core.status(self.now).source == box

    @rule(box=BOXES, most=st.integers(0, SIZE), between=BOXES)
    def honest_paste(self, box, most, between):
        self.only_focus(box)
        asks = [a for a in self.say((box, w.PastePressed())) if type(a) is w.AskPolicy]
        if asks:
            self.focus_taken(between)
            self.decided(asks[0].transfer, most, yes=True)

    @rule(box=BOXES)
    def gone(self, box):
        self.claims.discard(box)
        self.offers.pop(box, None)
        self.say((box, w.SandboxGone()))
        assert self.core.status(self.now).source != box

    @rule(event=st.sampled_from([("", w.EpochChanged()), ("", w.Cleared())]))
    def wiped(self, event):
        self.say(event)
        assert self.offers == {}
        assert self.core.deadline is None

    @rule(seconds=st.sampled_from([0.1, 5.0, 20.0, 50.0, 100.0]))
    def time(self, seconds):
        self.now += seconds
        self.say(("", w.Ticked()))
        due = self.core.deadline
        assert due is None or due > self.now
        assert all(until > self.now for _, until in self.offers.values())

    @invariant()
    def bounded(self):
        status = self.core.status(self.now)
        assert status.size <= SIZE
        assert {target for _, target, _ in status.offered} == set(self.offers)
        claims = self.claims
        assert self.core.focused == (next(iter(claims)) if len(claims) == 1 else None)
        assert len(status.kinds) <= limits.CLIPBOARD_KINDS


Anything.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestAnything = pytest.mark.timeout(120)(Anything.TestCase)
