"""Copy and paste as conversations: messages to the core, and its actions."""

from __future__ import annotations

import pytest

import policy.limits
from broker.core import limits
from broker.core.clipboard.types import TEXT_NAMES
from broker.core.limits import clipboard as clipboard_limits
from broker.core.limits import wayland as wayland_limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons as c
from broker.viewer.clipboard.exchange.broker import Crossing
from broker.viewer.clipboard.exchange.operations import TransferStatus

TEXT = b"the password is hunter2"
COPY = w.CopyTerms()
PASTE = w.PasteTerms(rule="r:1")


def is_order(action: w.Action, kind: type) -> bool:
    return isinstance(action, w.WorkerOrder) and isinstance(action.message, kind)


def kinds(actions: list[w.Action]) -> list[type]:
    """Return the class of each action, and of an order that of its message."""
    return [type(a.message if isinstance(a, w.WorkerOrder) else a) for a in actions]


class Desk:
    """A core, a clock, and three sandboxes: work, personal, evil."""

    def __init__(self, **made) -> None:
        self.core = Crossing(**made)
        self.now = 100.0

    def say(self, event: tuple[str, w.Event]) -> list[w.Action]:
        return self.core.feed(*event, self.now)

    def focus(self, sandbox: str) -> list[w.Action]:
        """As a person changes windows: the old worker's word may come later."""
        before = self.core.focused
        out = self.say((sandbox, ipc.ClipboardFocus(taken=True)))
        if before == sandbox:
            return out
        if before is not None:
            out += self.say((before, ipc.ClipboardFocus(taken=False)))
        self.now += 2 * clipboard_limits.CLIPBOARD_FOCUS_SECONDS
        return out

    def ask_copy(self, sandbox="work", terms=COPY) -> int:
        """The chord, up to the question for types."""
        self.focus(sandbox)
        (ask,) = self.say((sandbox, w.CopyPressed(terms)))
        assert is_order(ask, ipc.AskTypes)
        assert ask.sandbox == sandbox
        return ask.message.transfer

    def reading(self, sandbox="work", types=("text/plain",), terms=COPY):
        asked = self.ask_copy(sandbox, terms)
        (read,) = self.say((sandbox, ipc.ClipboardTypes(asked, types)))
        assert is_order(read, ipc.ReadType)
        return read

    def copy(self, data=TEXT, sandbox="work", **more) -> w.RecordCrossing:
        read = self.reading(sandbox, **more)
        (record,) = self.say((sandbox, w.CheckedContent(read.message.transfer, data)))
        assert record.outcome is w.Outcome.COPIED
        return record

    def ask_paste(self, target="personal") -> w.AskPolicy:
        self.focus(target)
        (ask,) = self.say((target, w.PastePressed()))
        assert isinstance(ask, w.AskPolicy)
        return ask

    def paste(self, target="personal", terms=PASTE):
        ask = self.ask_paste(target)
        return self.say(("", w.Decided(ask.transfer, terms)))

    def reason(self, actions: list[w.Action]) -> str:
        """Why the last thing was not done."""
        assert isinstance(actions[-1], w.RecordCrossing), actions
        assert actions[-1].outcome in {w.Outcome.REFUSED, w.Outcome.DROPPED}
        assert not any(is_order(a, ipc.Offer) for a in actions)
        return actions[-1].reason


def test_two_steps_and_it_is_wiped():
    desk = Desk()
    assert desk.copy() == w.RecordCrossing(
        w.Outcome.COPIED, "work", kinds=("text/plain",), size=len(TEXT), outward=False
    )
    ask = desk.ask_paste()
    assert (ask.source, ask.target) == ("work", "personal")
    assert ask.kinds == (("text/plain", len(TEXT)),)
    terms = w.PasteTerms(rule="30-mine.policy:4", ttl=60)
    record, offer = desk.say(("", w.Decided(ask.transfer, terms)))
    assert record == w.RecordCrossing(
        w.Outcome.PASTED,
        "work",
        "personal",
        ("text/plain",),
        len(TEXT),
        rule="30-mine.policy:4",
    )
    assert (offer.sandbox, offer.items) == ("personal", (w.Item("text/plain", TEXT),))
    assert offer.message == ipc.Offer(
        ask.transfer, [ipc.Piece(list(TEXT_NAMES), len(TEXT))]
    )
    assert desk.core.status(desk.now).offered == (("work", "personal", 60),)
    assert desk.core.status(desk.now).source == ""
    assert desk.reason(desk.say(("personal", w.PastePressed()))) == c.NOTHING


def test_content_is_in_no_repr():
    desk = Desk()
    desk.copy()
    shown = repr(desk.paste()) + repr(("work", w.CheckedContent(1, TEXT)))
    assert "hunter2" not in shown


@pytest.mark.parametrize("paste", [False, True])
def test_chord_right_after_a_change_of_the_focus_does_nothing(paste):
    """A window that opens takes the keyboard while the user presses the chord."""
    case = Desk()
    case.copy()
    source = case.core.status(case.now).source
    case.focus("personal")
    case.say(("evil", ipc.ClipboardFocus(taken=True)))
    case.say(("personal", ipc.ClipboardFocus(taken=False)))
    chord = w.PastePressed() if paste else w.CopyPressed()
    case.now += clipboard_limits.CLIPBOARD_FOCUS_SECONDS - 0.01
    assert "personal has changed just now" in case.reason(case.say(("evil", chord)))
    assert case.core.status(case.now).source == source
    # It goes away at once: what the user pressed in time for it is not for another one.
    case.say(("evil", ipc.ClipboardFocus(taken=False)))
    case.say(("personal", ipc.ClipboardFocus(taken=True)))
    assert "just now" in case.reason(case.say(("personal", chord)))
    case.say(("personal", ipc.ClipboardFocus(taken=True)))
    case.now += clipboard_limits.CLIPBOARD_FOCUS_SECONDS + 0.01
    assert not isinstance(case.say(("personal", chord))[0], w.RecordCrossing)


def test_the_window_of_a_copy_is_named_with_it():
    case = Desk()
    case.focus("work")
    pressed = w.CopyPressed(COPY, window="Mail")
    (ask,) = case.say(("work", pressed))
    (read,) = case.say(
        ("work", ipc.ClipboardTypes(ask.message.transfer, ("text/plain",)))
    )
    (record,) = case.say(("work", w.CheckedContent(read.message.transfer, TEXT)))
    assert (record.outcome, record.window) == (w.Outcome.COPIED, "Mail")
    assert case.paste()[0].window == "Mail"


HOST = w.CopyTerms()


@pytest.mark.parametrize(
    ("earlier", "later", "newer"),
    [("a", "b", True), ("", "b", True), ("a", "a", False), ("a", "", False)],
)
def test_a_newer_copy_of_the_users_programs_wins(earlier, later, newer):
    case = Desk()
    case.focus("work")
    (ask,) = case.say(("work", w.CopyPressed(COPY, desktop=earlier)))
    (read,) = case.say(
        ("work", ipc.ClipboardTypes(ask.message.transfer, ("text/plain",)))
    )
    case.say(("work", w.CheckedContent(read.message.transfer, TEXT)))
    case.focus("personal")
    (action,) = case.say(("personal", w.PastePressed(HOST, later)))
    if newer:
        assert is_order(action, ipc.AskTypes)
        assert action.message.host
        assert case.core.status(case.now).source == ""
    else:
        assert isinstance(action, w.AskPolicy)


def test_a_newer_copy_that_no_rule_lets_in_is_not_replaced_by_the_older():
    """A paste would give an older secret than the user believes."""
    case = Desk()
    case.copy()
    case.focus("personal")
    pressed = w.PastePressed(None, "b")
    assert case.reason(case.say(("personal", pressed))) == c.NEWER
    assert case.reason(case.say(("personal", pressed))) == c.NOTHING


def test_nothing_is_taken_or_given_without_the_focus():
    desk = Desk()
    assert desk.reason(desk.say(("work", w.CopyPressed()))) == c.NO_FOCUS
    desk.copy()
    assert desk.reason(desk.say(("evil", w.PastePressed()))) == c.NO_FOCUS
    assert desk.core.status(desk.now).source == "work"


def test_two_claims_of_the_focus_are_unknown_request():
    desk = Desk()
    desk.copy()
    desk.focus("personal")
    desk.say(("evil", ipc.ClipboardFocus(taken=True)))
    assert desk.core.focused is None
    assert "evil" in desk.reason(desk.say(("personal", w.PastePressed())))
    assert "personal" in desk.reason(desk.say(("evil", w.PastePressed())))
    assert "personal" in desk.reason(desk.say(("evil", w.CopyPressed())))
    desk.say(("evil", ipc.ClipboardFocus(taken=False)))
    desk.now += clipboard_limits.CLIPBOARD_FOCUS_SECONDS + 0.001
    assert isinstance(desk.say(("personal", w.PastePressed()))[0], w.AskPolicy)


def test_a_focus_taken_between_press_and_data_takes_nothing():
    desk = Desk()
    read = desk.reading()
    stop, record = desk.say(("evil", ipc.ClipboardFocus(taken=True)))
    assert stop == w.WorkerOrder("work", ipc.StopRead(read.message.transfer))
    assert record.reason == c.MOVED
    assert desk.say(("work", w.CheckedContent(read.message.transfer, TEXT))) == []
    assert desk.core.status(desk.now).source == ""


def test_a_focus_taken_between_press_and_answer_gives_nothing():
    desk = Desk()
    desk.copy()
    ask = desk.ask_paste()
    assert desk.reason(desk.say(("evil", ipc.ClipboardFocus(taken=True)))) == c.MOVED
    desk.say(("evil", ipc.ClipboardFocus(taken=False)))
    assert desk.say(("", w.Decided(ask.transfer, w.PasteTerms()))) == []


def test_a_dialog_of_ours_may_have_the_focus_meanwhile():
    desk = Desk()
    desk.copy()
    ask = desk.ask_paste()
    assert desk.say(("personal", ipc.ClipboardFocus(taken=False))) == []
    assert desk.say(("personal", ipc.ClipboardFocus(taken=True))) == []
    said = desk.say(("", w.Decided(ask.transfer, w.PasteTerms())))
    assert is_order(said[1], ipc.Offer)


def test_a_copy_that_fails_leaves_nothing_older_to_paste():
    desk = Desk()
    desk.copy()
    asked = desk.ask_copy("personal")
    assert desk.reason(desk.say(("personal", ipc.ClipboardTypes(asked, ())))) == c.EMPTY
    desk.focus("evil")
    assert desk.reason(desk.say(("evil", w.PastePressed()))) == c.NOTHING


def test_a_copy_while_policy_thinks_ends_that_paste():
    desk = Desk()
    desk.copy()
    ask = desk.ask_paste()
    dropped, _ = desk.say(("personal", w.CopyPressed()))
    assert dropped.reason == c.REPLACED
    assert desk.say(("", w.Decided(ask.transfer, w.PasteTerms()))) == []


def test_one_at_a_time():
    desk = Desk()
    desk.copy()
    ask = desk.ask_paste()
    assert desk.reason(desk.say(("personal", w.PastePressed()))) == c.BUSY
    desk.say(("", w.Decided(ask.transfer, None)))
    desk.ask_copy("personal")
    assert desk.reason(desk.say(("personal", w.CopyPressed()))) == c.BUSY


def test_a_late_answer_of_policy_is_for_no_other_paste():
    desk = Desk()
    desk.copy()
    first = desk.ask_paste("personal")
    second = desk.ask_paste("evil")
    assert desk.say(("", w.Decided(first.transfer, w.PasteTerms()))) == []
    said = desk.say(("", w.Decided(second.transfer, None, "no")))
    assert desk.reason(said) == "no"


def test_ones_own_is_pasted_as_usual():
    desk = Desk()
    desk.copy()
    assert desk.reason(desk.say(("work", w.PastePressed()))) == c.SAME
    assert desk.core.status(desk.now).source == "work"


def test_what_policy_denies_is_kept_for_another_window():
    desk = Desk()
    desk.copy()
    ask = desk.ask_paste("evil")
    said = desk.say(("", w.Decided(ask.transfer, None, "denied by rule")))
    assert desk.reason(said) == "denied by rule"
    assert is_order(desk.paste("personal")[1], ipc.Offer)


# -- sizes ---------------------------------------------------------------------------


def test_the_limits_of_a_rule_are_those_of_the_records():
    """``policy`` imports nothing of the broker, so they are there twice."""
    assert policy.limits.CLIPBOARD_BYTES[1] == clipboard_limits.CLIPBOARD_BYTES_MOST
    assert policy.limits.CLIPBOARD_SECONDS[1] == clipboard_limits.CLIPBOARD_SECONDS_MOST
    assert clipboard_limits.CLIPBOARD_DECIDE_SECONDS > limits.QUESTION_MOST_SECONDS


def test_the_largest_content_is_copied_and_a_byte_more_refused_whole():
    desk = Desk()
    most = b"x" * clipboard_limits.CLIPBOARD_BYTES
    assert desk.copy(most).size == clipboard_limits.CLIPBOARD_BYTES
    read = desk.reading()
    assert read.message.max_bytes == clipboard_limits.CLIPBOARD_BYTES
    assert (
        desk.reason(
            desk.say(("work", w.CheckedContent(read.message.transfer, most + b"y")))
        )
        == c.LARGE
    )
    assert desk.core.status(desk.now).size == 0


def test_no_rule_allows_more_than_the_most():
    desk = Desk()
    read = desk.reading(terms=w.CopyTerms(max_bytes=1 << 40))
    assert read.message.max_bytes == clipboard_limits.CLIPBOARD_BYTES_MOST


@pytest.mark.parametrize(("most", "crosses"), [(len(TEXT), True), (5, False)])
def test_the_size_of_the_rule_that_allows_it_counts(most, crosses):
    desk = Desk()
    desk.copy()
    said = desk.paste(terms=w.PasteTerms(max_bytes=most))
    if crosses:
        assert said[1].items[0].data == TEXT
    else:
        assert desk.reason(said) == c.LARGE


def test_several_types_share_the_size_and_one_too_large_is_left_out():
    """A spreadsheet's text crosses without its picture of it."""
    desk = Desk()
    read = desk.reading(types=("image/png", "text/plain"))
    assert read.message.name == "text/plain"
    (second,) = desk.say(("work", w.CheckedContent(read.message.transfer, TEXT)))
    assert second.message.name == "image/png"
    assert second.message.max_bytes == clipboard_limits.CLIPBOARD_BYTES - len(TEXT)
    # Late data of the first transfer is not a part of the second.
    assert desk.say(("work", w.CheckedContent(read.message.transfer, b"late"))) == []
    (record,) = desk.say(
        (
            "work",
            w.CheckedContent(
                second.message.transfer, b"x" * (second.message.max_bytes + 1)
            ),
        )
    )
    assert record.kinds == ("text/plain",)
    assert record.size == len(TEXT)


# -- time -----------------------------------------------------------------------------


def test_a_source_that_stalls_is_given_up():
    desk = Desk()
    read = desk.reading()
    began = desk.now
    assert desk.core.deadline == began + clipboard_limits.CLIPBOARD_COPY_SECONDS
    desk.now = desk.core.deadline - 0.001
    assert desk.say(("", w.Ticked())) == []
    desk.now = began + clipboard_limits.CLIPBOARD_COPY_SECONDS
    stop, record = desk.say(("", w.Ticked()))
    assert stop == w.WorkerOrder("work", ipc.StopRead(read.message.transfer))
    assert record.reason == c.SLOW
    assert desk.core.deadline is None


@pytest.mark.parametrize(("late", "left"), [(-0.001, True), (0, False)])
def test_copied_content_expires(late, left):
    desk = Desk()
    desk.copy()
    desk.now += clipboard_limits.CLIPBOARD_SECONDS + late
    said = desk.say(("", w.Ticked()))
    assert (said == []) is left
    assert (desk.core.status(desk.now).source == "work") is left


@pytest.mark.parametrize(("late", "left"), [(-0.001, True), (0, False)])
def test_pasted_content_is_withdrawn(late, left):
    desk = Desk()
    desk.copy()
    offer = desk.paste(terms=w.PasteTerms(ttl=30))[1]
    desk.now += 30 + late
    said = desk.say(("", w.Ticked()))
    assert (said == []) is left
    if not left:
        assert said[0] == w.WorkerOrder(
            "personal", ipc.Withdraw(offer.message.transfer)
        )
        assert said[1].outcome is w.Outcome.EXPIRED


def test_no_rule_keeps_it_longer_than_the_most():
    desk = Desk()
    desk.copy(terms=w.CopyTerms(ttl=1e9))
    assert desk.core.deadline == desk.now + clipboard_limits.CLIPBOARD_SECONDS_MOST
    desk.paste(terms=w.PasteTerms(ttl=1e9))
    ((_, _, left),) = desk.core.status(desk.now).offered
    assert left == clipboard_limits.CLIPBOARD_SECONDS_MOST


@pytest.mark.parametrize(("late", "left"), [(-0.001, True), (0, False)])
def test_policy_that_does_not_answer_is_no(late, left):
    desk = Desk()
    desk.copy()
    ask = desk.ask_paste()
    desk.now += clipboard_limits.CLIPBOARD_DECIDE_SECONDS + late
    said = desk.say(("", w.Decided(ask.transfer, w.PasteTerms())))
    assert is_order(said[-1], ipc.Offer) is left


def test_what_expires_while_policy_thinks_is_not_pasted():
    desk = Desk()
    desk.copy(terms=w.CopyTerms(ttl=5))
    ask = desk.ask_paste()
    desk.now += 5
    said = desk.say(("", w.Decided(ask.transfer, w.PasteTerms())))
    assert not any(is_order(a, ipc.Offer) for a in said)


# -- ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [("", w.EpochChanged()), ("", w.Cleared())])
def test_a_new_epoch_or_the_persons_word_wipes_all(event):
    desk = Desk()
    desk.copy()
    offer = desk.paste()[1]
    desk.copy()
    said = desk.say(event)
    assert w.WorkerOrder("personal", ipc.Withdraw(offer.message.transfer)) in said
    assert desk.core.status(desk.now) == TransferStatus()
    desk.copy()
    ask = desk.ask_paste()
    assert desk.say(event)
    assert desk.say(("", w.Decided(ask.transfer, w.PasteTerms()))) == []
    read = desk.reading()
    assert w.WorkerOrder("work", ipc.StopRead(read.message.transfer)) in desk.say(event)
    assert desk.core.deadline is None


def test_when_the_source_ends_its_content_is_wiped():
    """Its name may be another's afterwards."""
    desk = Desk()
    desk.copy()
    ask = desk.ask_paste()
    assert [r.reason for r in desk.say(("work", w.SandboxGone()))] == [c.GONE] * 2
    assert desk.say(("", w.Decided(ask.transfer, w.PasteTerms()))) == []
    assert desk.core.status(desk.now).source == ""


def test_when_a_sandbox_ends_it_has_no_focus_and_no_copy_under_way():
    desk = Desk()
    read = desk.reading()
    stop, record = desk.say(("work", w.SandboxGone()))
    assert stop == w.WorkerOrder("work", ipc.StopRead(read.message.transfer))
    assert record.reason == c.GONE
    assert desk.core.focused is None


def test_the_next_paste_replaces_and_the_target_may_end_an_offer():
    desk = Desk()
    desk.copy()
    first = desk.paste()[1]
    desk.copy()
    withdraw, _, second = desk.paste()
    assert withdraw == w.WorkerOrder("personal", ipc.Withdraw(first.message.transfer))
    assert desk.say(("personal", ipc.OfferEnded(first.message.transfer))) == []
    assert len(desk.core.status(desk.now).offered) == 1
    assert desk.say(("personal", ipc.OfferEnded(second.message.transfer))) == []
    assert desk.core.status(desk.now).offered == ()


def test_what_the_targets_worker_cannot_offer_is_told():
    desk = Desk()
    desk.copy()
    offer = desk.paste()[1]
    said = desk.say(
        ("personal", ipc.OfferRefused(offer.message.transfer, "no\x1bdevice"))
    )
    assert desk.reason(said) == "no\\x1bdevice"
    assert desk.core.status(desk.now).offered == ()
    assert (
        desk.say(("personal", ipc.OfferRefused(offer.message.transfer, "again"))) == []
    )
    (blame,) = desk.say(("personal", ipc.OfferRefused(99, "again")))
    assert isinstance(blame, w.Blame)


def test_an_offer_that_policy_revokes_is_withdrawn():
    desk = Desk()
    desk.copy()
    offer = desk.paste()[1]
    standing = ("personal", offer.message.transfer, "work", ("text/plain",))
    assert desk.core.standing == (standing,)
    assert desk.say(("personal", w.ConsentRevoked(99, "no"))) == []
    withdraw, record = desk.say(
        ("personal", w.ConsentRevoked(offer.message.transfer, "no"))
    )
    assert withdraw == w.WorkerOrder("personal", ipc.Withdraw(offer.message.transfer))
    assert (record.outcome, record.reason) == (w.Outcome.DROPPED, "no")
    assert desk.core.standing == ()


PRIMARY = w.CopyTerms(primary=True)


def test_the_primary_selection_counts_where_nothing_was_copied():
    desk = Desk()
    asked = desk.ask_copy(terms=PRIMARY)
    (ask,) = desk.say(("work", ipc.ClipboardTypes(asked, ())))
    assert ask == w.WorkerOrder("work", ipc.AskTypes(asked + 1, primary=True))
    (read,) = desk.say(
        ("work", ipc.ClipboardTypes(ask.message.transfer, ("text/plain",)))
    )
    (record,) = desk.say(("work", w.CheckedContent(read.message.transfer, TEXT)))
    assert record.selection == "primary"
    _, offer = desk.paste(terms=w.PasteTerms(primary=True))
    assert offer.message.primary


def test_the_primary_selection_is_read_once_and_only_by_a_record():
    desk = Desk()
    asked = desk.ask_copy(terms=PRIMARY)
    (ask,) = desk.say(("work", ipc.ClipboardTypes(asked, ())))
    assert (
        desk.reason(desk.say(("work", ipc.ClipboardTypes(ask.message.transfer, ()))))
        == c.EMPTY
    )
    asked = desk.ask_copy()
    assert desk.reason(desk.say(("work", ipc.ClipboardTypes(asked, ())))) == c.EMPTY
    desk.copy()
    assert not desk.paste()[1].message.primary


def test_a_drag_of_another_is_refused_with_a_reason():
    desk = Desk()
    (record,) = desk.say(("work", ipc.ForeignDrag()))
    assert (record.outcome, record.target) == (w.Outcome.REFUSED, "work")
    assert (record.reason, record.selection) == (c.DRAG, "drag")


def test_it_says_what_policy_was_asked():
    desk = Desk()
    desk.copy()
    ask = desk.ask_paste()
    assert desk.core.undecided == {ask.transfer}
    desk.say(("evil", ipc.ClipboardFocus(taken=True)))
    assert desk.core.undecided == set()


# -- types and cleaning ---------------------------------------------------------------


def held(desk: Desk, *items: tuple[str, bytes]) -> None:
    read = desk.reading(
        types=tuple(kind for kind, _ in items), terms=w.CopyTerms(patterns=("*/*",))
    )
    for _, data in items:
        (read,) = desk.say(("work", w.CheckedContent(read.message.transfer, data)))
    assert read.outcome is w.Outcome.COPIED


def test_only_types_that_the_rule_names_cross():
    desk = Desk()
    held(desk, ("text/plain", TEXT), ("image/png", b"png"), ("text/html", b"<b>"))
    offer = desk.paste()[1]
    assert [item.kind for item in offer.items] == ["text/plain", "image/png"]
    held(desk, ("text/html", b"<b>"))
    assert desk.reason(desk.paste()) == c.NO_TYPE


def test_plain_text_only():
    desk = Desk()
    held(desk, ("text/plain", TEXT), ("image/png", b"png"), ("text/html", b"<b>"))
    terms = w.PasteTerms(patterns=("*/*",), clean=frozenset({"plain"}))
    offer = desk.paste(terms=terms)[1]
    assert [item.kind for item in offer.items] == ["text/plain"]


def rewriting(desk: Desk, *items, clean="controls") -> w.WorkerOrder:
    """A paste up to what the target's worker is asked to write again."""
    held(desk, *items)
    terms = w.PasteTerms(clean=frozenset({clean}), max_bytes=1000, rule="r:2")
    (rewrite,) = desk.paste(terms=terms)
    assert is_order(rewrite, ipc.Rewrite)
    assert (rewrite.sandbox, rewrite.message.clean) == ("personal", [clean])
    return rewrite


def test_what_the_target_wants_clean_is_cleaned_in_its_worker():
    desk = Desk()
    rewrite = rewriting(desk, ("text/plain", TEXT), ("image/png", b"png"))
    assert rewrite.items == (w.Item("text/plain", TEXT),)
    assert desk.core.status(desk.now).source == ""
    record, offer = desk.say(
        ("personal", w.CheckedContent(rewrite.message.transfer, b"clean"))
    )
    assert [item.data for item in offer.items] == [b"clean", b"png"]
    assert record.size == len(b"cleanpng")
    assert record.outcome is w.Outcome.PASTED


def test_of_images_only_png_is_written_again_and_no_other_crosses():
    desk = Desk()
    rewrite = rewriting(
        desk, ("image/png", b"png"), ("image/webp", b"webp"), clean="images"
    )
    assert rewrite.message.kind == "image/png"
    _, offer = desk.say(
        ("personal", w.CheckedContent(rewrite.message.transfer, b"anew"))
    )
    assert offer.items == (w.Item("image/png", b"anew"),)
    held(desk, ("image/webp", b"webp"))
    terms = w.PasteTerms(("image/*",), clean=frozenset({"images"}))
    assert desk.reason(desk.paste(terms=terms)) == c.IMAGES


def test_what_cannot_be_cleaned_does_not_cross():
    desk = Desk()
    rewrite = rewriting(desk, ("text/plain", b"\xff"))
    failed = (
        "personal",
        ipc.ClipboardFailed(rewrite.message.transfer, "the text is not UTF-8"),
    )
    said = desk.say(failed)
    assert desk.reason(said) == "the text is not UTF-8"
    assert said[-1].rule == "r:2"
    rewrite = rewriting(desk, ("text/plain", b"\x1b"))
    said = desk.say(("personal", w.CheckedContent(rewrite.message.transfer, b"")))
    assert desk.reason(said) == c.CLEANED


@pytest.mark.parametrize(("size", "kept"), [(1000, True), (1001, False)])
def test_cleaned_content_is_bounded_by_the_rule_s_size(size, kept):
    desk = Desk()
    rewrite = rewriting(desk, ("text/plain", TEXT))
    said = desk.say(
        ("personal", w.CheckedContent(rewrite.message.transfer, b"x" * size))
    )
    if kept:
        assert said[0].outcome is w.Outcome.PASTED
    else:
        assert said[0] == w.WorkerOrder(
            "personal", ipc.StopRead(rewrite.message.transfer)
        )
        assert desk.reason(said) == c.LARGE


def test_a_worker_that_cleans_has_its_time_its_turn_and_its_number():
    desk = Desk()
    rewrite = rewriting(desk, ("text/plain", TEXT))
    (blame,) = desk.say(("evil", w.CheckedContent(rewrite.message.transfer, b"rm")))
    assert blame.sandbox == "evil"
    assert desk.reason(desk.say(("personal", w.PastePressed()))) == c.BUSY
    assert desk.core.deadline == desk.now + clipboard_limits.CLIPBOARD_COPY_SECONDS
    desk.now = desk.core.deadline
    assert desk.reason(desk.say(("", w.Ticked()))) == c.SLOW
    rewrite = rewriting(desk, ("text/plain", TEXT))
    assert desk.reason(desk.say(("evil", ipc.ClipboardFocus(taken=True)))) == c.MOVED
    assert (
        desk.say(("personal", w.CheckedContent(rewrite.message.transfer, b"late")))
        == []
    )
    desk.say(("evil", ipc.ClipboardFocus(taken=False)))
    rewriting(desk, ("text/plain", TEXT))
    assert desk.reason(desk.say(("personal", w.SandboxGone()))) == c.GONE


def test_names_of_files_have_a_reason_of_their_own():
    desk = Desk()
    asked = desk.ask_copy()
    names = ("x-special/gnome-copied-files", "text/x-moz-url")
    said = desk.say(("work", ipc.ClipboardTypes(asked, names)))
    assert desk.reason(said) == c.FILES


FILE_LIST = b"# a comment\r\nfile:///home/user/a%20b\r\nfile:///home/user/c\r\n"


def copied_files(desk: Desk, data=FILE_LIST, types=("text/uri-list", "text/plain")):
    """Copy a list of files; returns the last actions."""
    read = desk.reading(types=types)
    assert read.message.name == "text/uri-list"
    return desk.say(("work", w.CheckedContent(read.message.transfer, data)))


def test_files_are_carried_once_and_not_offered():
    desk = Desk()
    (record,) = copied_files(desk)
    assert (record.outcome, record.kinds) == (w.Outcome.COPIED, ("text/uri-list",))
    desk.focus("personal")
    (carry,) = desk.say(("personal", w.PastePressed()))
    files = ("file:///home/user/a%20b", "file:///home/user/c")
    assert (carry.source, carry.target, carry.files) == ("work", "personal", files)
    assert isinstance(carry, w.CarryFiles)
    assert desk.reason(desk.say(("personal", w.PastePressed()))) == c.NOTHING


def test_files_are_not_pasted_where_they_are_nor_without_the_focus():
    desk = Desk()
    copied_files(desk)
    assert desk.reason(desk.say(("work", w.PastePressed()))) == c.SAME
    assert desk.reason(desk.say(("personal", w.PastePressed()))) == c.NO_FOCUS


def test_a_list_of_links_leaves_the_text():
    desk = Desk()
    (read,) = copied_files(desk, b"https://example.org/\r\n")
    assert read.message.name == "text/plain"
    (record,) = desk.say(
        ("work", w.CheckedContent(read.message.transfer, b"https://example.org/"))
    )
    assert record.kinds == ("text/plain",)


@pytest.mark.parametrize(
    "line",
    [b"file://other/a", b"/etc/passwd", b"file:///a b", b"file:///\xc3\xa4", b"--help"],
)
def test_lines_that_are_not_file_uris_are_left_out(line):
    desk = Desk()
    said = copied_files(desk, line, ("text/uri-list",))
    assert desk.reason(said) == c.EMPTY


def test_a_list_that_is_too_large_takes_the_text_with_it():
    desk = Desk()
    read = desk.reading(types=("text/uri-list", "text/plain"))
    large = bytes(clipboard_limits.CLIPBOARD_BYTES_MOST + 1)
    assert (
        desk.reason(desk.say(("work", w.CheckedContent(read.message.transfer, large))))
        == c.LARGE
    )


def test_a_long_list_is_cut():
    desk = Desk()
    many = b"".join(
        b"file:///%d\n" % n for n in range(clipboard_limits.CLIPBOARD_FILES + 1)
    )
    (record,) = copied_files(desk, many)
    assert record.size == clipboard_limits.CLIPBOARD_FILES


@pytest.mark.parametrize(("late", "crosses"), [(0, True), (0.001, False)])
def test_content_older_than_the_rule_allows_is_not_pasted(late, crosses):
    desk = Desk()
    desk.copy()
    copied_at = desk.now
    ask = desk.ask_paste()
    desk.now = copied_at + 60 + late
    said = desk.say(("", w.Decided(ask.transfer, w.PasteTerms(ttl=60))))
    if crosses:
        assert is_order(said[-1], ipc.Offer)
    else:
        assert desk.reason(said) == c.OLD


# -- workers that lie -------------------------------------------------------------------


def test_another_worker_cannot_answer():
    desk = Desk()
    read = desk.reading()
    for event in (
        ("evil", w.CheckedContent(read.message.transfer, b"rm -rf /")),
        ("evil", ipc.ClipboardFailed(read.message.transfer, "")),
    ):
        (blame,) = desk.say(event)
        assert isinstance(blame, w.Blame)
        assert blame.sandbox == "evil"
    (record,) = desk.say(("work", w.CheckedContent(read.message.transfer, TEXT)))
    assert record.size == len(TEXT)


@pytest.mark.parametrize("number", [0, -1, 2, 999])
def test_an_answer_without_a_question_is_an_error(number):
    desk = Desk()
    desk.ask_copy()  # transfer 1
    for event in (
        ("work", ipc.ClipboardTypes(number, ("text/plain",))),
        ("work", w.CheckedContent(number, b"x")),
        ("work", ipc.OfferEnded(number)),
    ):
        assert [type(a) for a in desk.say(event)] == [w.Blame]


def test_answers_out_of_order_end_the_transfer():
    desk = Desk()
    asked = desk.ask_copy()
    said = desk.say(("work", w.CheckedContent(asked, b"x")))
    assert kinds(said) == [ipc.StopRead, w.RecordCrossing, w.Blame]
    read = desk.reading()
    said = desk.say(
        ("work", ipc.ClipboardTypes(read.message.transfer, ("text/plain",)))
    )
    assert kinds(said) == [ipc.StopRead, w.RecordCrossing, w.Blame]


def test_too_many_types_are_the_workers_fault():
    desk = Desk()
    asked = desk.ask_copy()
    types = ("text/plain",) * (wayland_limits.WAYLAND_MIMES + 1)
    said = desk.say(("work", ipc.ClipboardTypes(asked, types)))
    assert kinds(said) == [ipc.StopRead, w.RecordCrossing, w.Blame]


def test_a_source_that_fails_gives_nothing():
    desk = Desk()
    read = desk.reading()
    assert (
        desk.reason(desk.say(("work", ipc.ClipboardFailed(read.message.transfer, ""))))
        == c.FAILED
    )
    asked = desk.ask_copy()
    assert desk.reason(desk.say(("work", ipc.ClipboardFailed(asked, "")))) == c.FAILED


# -- the digest ----------------------------------------------------------------------------


def test_a_keyed_hash_where_the_setting_asks_for_it():
    plain, one, same, other = (
        Desk(),
        Desk(digest=lambda data: f"a{hash(data)}"),
        Desk(digest=lambda data: f"a{hash(data)}"),
        Desk(digest=lambda data: f"b{hash(data)}"),
    )
    said = [desk.copy().digest for desk in (plain, one, same, other)]
    assert said[0] == ""
    assert said[1] == said[2] != said[3]
    assert one.paste()[0].digest == said[1]


def test_records_have_no_room_for_content():
    assert set(w.RecordCrossing.__annotations__.values()) == {
        "Outcome",
        "str",
        "tuple[str, ...]",
        "int",
        "bool",
    }
