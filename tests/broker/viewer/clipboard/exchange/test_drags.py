"""Drags as three workers tell of them, each for itself and in whatever order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons
from broker.viewer.clipboard.exchange.broker import Crossing
from tests.broker.viewer.clipboard.exchange.test_broker import is_order

MARK = "application/x-vitrail-drag-1"
TERMS = w.CopyTerms()
TEXT = b"dropped by hand"
Words = list[tuple[str, w.Event]]

BEGUN = ("work", ipc.DragStarted(MARK))
PERFORMED = ("work", ipc.DragPerformed(MARK))


def over(sandbox: str, number: int = 1, mark: str = MARK) -> w.DragOver:
    return (sandbox, w.DragOver(number, mark, TERMS))


def orders(*said: Words) -> Iterator[Words]:
    """Each order of what several workers say; one's own words keep theirs."""
    rest = [words for words in said if words]
    if not rest:
        yield []
    for at, (first, *more) in enumerate(rest):
        for after in orders(*rest[:at], more, *rest[at + 1 :]):
            yield [first, *after]


class Desk:
    """A core, a clock, and all that the core has done."""

    def __init__(self, clean: frozenset[str] = frozenset()) -> None:
        self.core, self.now, self.done = Crossing(), 100.0, list[w.Action]()
        self.terms = w.PasteTerms(clean=clean, rule="r:1")

    def say(self, *events: tuple[str, w.Event]) -> None:
        for event in events:
            self.done += self.core.feed(*event, self.now)

    def last(self, kind: type) -> list:
        """All that it did of a kind: an action, or an order with such a message."""
        return [a for a in self.done if isinstance(a, kind) or is_order(a, kind)]

    @property
    def reasons(self) -> list[str]:
        return [record.reason for record in self.last(w.RecordCrossing)]

    def types(self, sandbox: str = "work") -> None:
        """The last question is answered."""
        ask = self.last(ipc.AskTypes)[-1]
        assert ask.sandbox == sandbox
        self.say((sandbox, ipc.ClipboardTypes(ask.message.transfer, ("text/plain",))))

    def data(self) -> None:
        read = self.last(ipc.ReadType)[-1]
        self.say((read.sandbox, w.CheckedContent(read.message.transfer, TEXT)))

    def decide(self) -> None:
        self.say(("", w.Decided(self.last(w.AskPolicy)[-1].transfer, self.terms)))

    def all(self) -> None:
        """All that the core waits for, where it waits for something."""
        for kind, answer in (
            (ipc.AskTypes, self.types),
            (ipc.ReadType, self.data),
            (w.AskPolicy, self.decide),
        ):
            if self.last(kind):
                answer()


def test_a_drop_counts_in_whatever_order_the_workers_tell_of_it():
    """Also of a worker that is late to say that it came over its window."""
    honest = list(
        orders(
            [over("evil")],
            [over("personal"), ("personal", ipc.DragDropped(1))],
            [PERFORMED],
        )
    )
    assert len(honest) == 12
    for words in honest:
        desk = Desk()
        desk.say(BEGUN, *words)
        desk.all()
        (offer,) = desk.last(ipc.Offer)
        assert offer.sandbox == "personal"
        assert (offer.message.drop, offer.items[0].data) == (1, TEXT)
        (record,) = desk.last(w.RecordCrossing)
        assert (record.outcome, record.source) == (w.Outcome.PASTED, "work")


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
def test_a_drop_that_two_claim_is_neithers(again):
    """One of the two was taken over: it claims the drop of a drag that passed over it."""
    lies: Words = [over("evil"), ("evil", ipc.DragDropped(1))]
    truth: Words = [over("personal"), ("personal", ipc.DragDropped(1))]
    if again:
        lies = [*lies[:1], over("evil", 2), ("evil", ipc.DragDropped(2))]
    for words in orders(lies, truth, [PERFORMED]):
        desk = Desk()
        desk.say(BEGUN, *words)
        desk.all()
        assert desk.last(ipc.Offer) == []
        desk.now += limits.CLIPBOARD_DROP_SECONDS
        desk.say(("", w.Ticked()))
        assert reasons.DRAG_TWICE in desk.reasons
        assert {end.sandbox for end in desk.last(ipc.EndDrag)} == {"evil", "personal"}
        assert not any(end.message.finished for end in desk.last(ipc.EndDrag))
        assert desk.core.deadline is None


@pytest.mark.parametrize("when", ["read", "decided", "cleaned"])
def test_who_claims_a_drop_late_stops_it_too(when):
    desk = Desk(frozenset({"controls"}) if when == "cleaned" else frozenset())
    desk.say(BEGUN, over("evil"), over("personal"))
    desk.say(("evil", ipc.DragDropped(1)), PERFORMED)
    desk.types()
    if when != "read":
        desk.data()
    if when == "cleaned":
        desk.decide()
        assert desk.last(ipc.Rewrite)
    desk.say(("personal", ipc.DragDropped(1)))
    assert desk.reasons == 2 * [reasons.DRAG_TWICE]
    assert desk.core.deadline is None
    desk.data()
    desk.all()
    assert desk.last(ipc.Offer) == []


def test_another_drag_does_not_stop_one_that_was_dropped():
    other = "application/x-vitrail-drag-2"
    desk = Desk()
    desk.say(BEGUN, over("personal"), ("personal", ipc.DragDropped(1)), PERFORMED)
    desk.say(("work", ipc.DragStarted(other)), over("evil", 1, other))
    desk.say(("evil", ipc.DragDropped(1)))
    desk.all()
    (offer,) = desk.last(ipc.Offer)
    assert offer.sandbox == "personal"


def test_the_persons_own_next_drag_does_not_stop_the_last_one():
    """Theirs have no marks: which of them it was is unknown."""
    desk = Desk()
    desk.say(over("personal", 1, ""), ("personal", ipc.DragDropped(1)))
    desk.types("personal")
    assert desk.last(w.AskPolicy)
    desk.say(over("vault", 1, ""), ("vault", ipc.DragDropped(1)))
    assert desk.last(ipc.EndDrag) == [w.WorkerOrder("vault", ipc.EndDrag(1))]
    desk.decide()
    desk.data()
    (offer,) = desk.last(ipc.Offer)
    assert offer.sandbox == "personal"
    assert desk.last(w.RecordCrossing)[-1].source == w.VIEWER


def test_who_says_it_twice_has_one_drop():
    desk = Desk()
    desk.say(BEGUN, over("personal"), ("personal", ipc.DragDropped(1)), PERFORMED)
    desk.say(over("personal", 2), ("personal", ipc.DragDropped(2)))
    assert desk.last(ipc.EndDrag) == [w.WorkerOrder("personal", ipc.EndDrag(2))]
    desk.all()
    (offer,) = desk.last(ipc.Offer)
    assert (offer.sandbox, offer.message.drop) == ("personal", 1)
    assert desk.reasons == [reasons.DRAG_TWICE, ""]


def test_a_drag_to_the_desktop_meanwhile_does_not_claim_the_drop():
    """The person's own programs ask for the content of a drag that passes over them."""
    desk = Desk()
    desk.say(BEGUN, ("work", w.DragWanted(3, MARK, "text/plain", TERMS)))
    desk.say(over("personal"), PERFORMED, ("personal", ipc.DragDropped(1)))
    assert desk.reasons == [reasons.BUSY]
    desk.all()
    (served,) = desk.last(ipc.Serve)
    assert (served.sandbox, served.message.number) == ("work", 3)


def test_an_unknown_drop_is_ended():
    """Or the program that was dragged from would wait for its end."""
    desk = Desk()
    desk.say(("personal", ipc.DragDropped(7)))
    assert desk.done == [w.WorkerOrder("personal", ipc.EndDrag(7))]


def test_a_drop_that_the_next_drag_overtakes_is_on_record():
    desk = Desk()
    desk.say(BEGUN, over("personal"), ("personal", ipc.DragDropped(1)))
    desk.say(("work", ipc.DragStarted(MARK + "2")), over("personal", 2, MARK + "2"))
    assert desk.reasons == [reasons.DRAG_ALONE]
    assert desk.last(ipc.EndDrag) == [w.WorkerOrder("personal", ipc.EndDrag(1))]
    desk.say(PERFORMED)
    assert desk.last(ipc.AskTypes) == []


def files_are_offered(desk):
    """The drag's types are a text's and those of files."""
    ask = desk.last(ipc.AskTypes)[-1]
    desk.say(
        (
            "work",
            ipc.ClipboardTypes(ask.message.transfer, ("text/plain", "text/uri-list")),
        )
    )


def test_a_file_is_not_dragged_out_by_its_name():
    desk = Desk()
    desk.say(BEGUN, ("work", w.DragWanted(3, MARK, "text/plain", TERMS)))
    files_are_offered(desk)
    assert desk.last(ipc.ReadType) == []
    assert desk.last(ipc.EndDrag) == [w.WorkerOrder("work", ipc.EndDrag(3))]
    assert desk.reasons == [reasons.DRAG_FILES]


def test_dragged_files_are_carried_and_the_window_gets_nothing():
    desk = Desk()
    desk.say(BEGUN, over("personal"), ("personal", ipc.DragDropped(1)), PERFORMED)
    files_are_offered(desk)
    (read,) = desk.last(ipc.ReadType)
    assert read.message.name == "text/uri-list", "the text is the files' names"
    desk.say(
        ("work", w.CheckedContent(read.message.transfer, b"file:///home/user/a\r\n"))
    )
    (carry,) = desk.last(w.CarryFiles)
    assert (carry.source, carry.target) == ("work", "personal")
    assert carry.files == ("file:///home/user/a",)
    assert desk.last(ipc.EndDrag) == [
        w.WorkerOrder("personal", ipc.EndDrag(1, finished=True))
    ]
    assert desk.last(ipc.Offer) == []


def test_a_thousand_drags_that_are_abandoned_leave_nothing():
    desk = Desk()
    for number in range(1000):
        mark = f"{MARK}-{number}"
        desk.say(("work", ipc.DragStarted(mark)), over("personal", number, mark))
    assert desk.core.deadline is None
    known = [n for n in range(1000) if desk.core.dragged_by(f"{MARK}-{n}")]
    assert known == list(range(1000 - limits.CLIPBOARD_DRAGS, 1000))
    desk.say(("work", w.SandboxGone()), ("personal", ipc.DragDropped(999)))
    assert desk.last(w.RecordCrossing) == []
    assert desk.last(ipc.EndDrag) == [w.WorkerOrder("personal", ipc.EndDrag(999))]


@pytest.mark.parametrize("gone", ["work", "personal"])
@pytest.mark.parametrize("step", ["dropped", "read", "asked"])
def test_a_sandbox_that_ends_takes_its_drop_with_it(step, gone):
    desk = Desk()
    desk.say(BEGUN, over("personal"), ("personal", ipc.DragDropped(1)))
    if step != "dropped":
        desk.say(PERFORMED)
        desk.types()
    if step == "asked":
        desk.data()
        assert desk.core.undecided
    desk.say((gone, w.SandboxGone()))
    assert not desk.core.undecided
    if (step, gone) != ("dropped", "personal"):
        assert desk.reasons == [reasons.GONE]
        assert desk.last(ipc.EndDrag)[-1].sandbox == "personal"
    desk.say(PERFORMED)
    desk.all()
    assert desk.last(ipc.Offer) == []
    assert desk.core.deadline is None
