"""The person's own selection into a sandbox, by the paste chord."""

from __future__ import annotations

import pytest

from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons as c
from tests.broker.viewer.clipboard.exchange.test_broker import (
    TEXT,
    Desk,
    is_order,
    kinds,
)

HOST = w.CopyTerms()
TERMS = w.PasteTerms(rule="r:3", ttl=30)


class Inward(Desk):
    """A desk on which nothing was copied by chord."""

    def press(self, target="work", host=HOST) -> list[w.Action]:
        self.focus(target)
        return self.say((target, w.PastePressed(host)))

    def ask(self, target="work", types=("text/plain", "image/png"), **more):
        (asked,) = self.press(target, **more)
        assert asked == w.WorkerOrder(
            target, ipc.AskTypes(asked.message.transfer, host=True)
        )
        return self.say((target, ipc.ClipboardTypes(asked.message.transfer, types)))

    def read(self, terms=TERMS):
        (policy,) = self.ask()
        (read,) = self.say(("", w.Decided(policy.transfer, terms)))
        assert is_order(read, ipc.ReadType)
        assert read.message.host
        return read


def test_policy_is_asked_before_anything_is_read():
    desk = Inward()
    (policy,) = desk.ask()
    assert (policy.source, policy.target, policy.origin) == (w.VIEWER, "work", "")
    assert policy.kinds == (("text/plain", None), ("image/png", None))
    (read,) = desk.say(("", w.Decided(policy.transfer, TERMS)))
    assert (read.sandbox, read.message.name, read.message.host) == (
        "work",
        "text/plain",
        True,
    )
    (second,) = desk.say(("work", w.CheckedContent(read.message.transfer, TEXT)))
    record, offer = desk.say(
        ("work", w.CheckedContent(second.message.transfer, b"png"))
    )
    assert record.outcome is w.Outcome.PASTED
    assert (record.source, record.target, record.rule) == (w.VIEWER, "work", "r:3")
    assert offer.items == (w.Item("text/plain", TEXT), w.Item("image/png", b"png"))
    assert desk.core.status(desk.now).offered == ((w.VIEWER, "work", 30),)


def test_without_a_rule_that_lets_it_in_content_is_not_read():
    desk = Inward()
    assert desk.reason(desk.press(host=None)) == c.NOTHING


def test_content_copied_by_chord_comes_first():
    desk = Inward()
    desk.copy()
    (policy,) = desk.press("personal")
    assert isinstance(policy, w.AskPolicy)
    assert policy.source == "work"


def test_denied_nothing_is_read():
    desk = Inward()
    (policy,) = desk.ask()
    (record,) = desk.say(("", w.Decided(policy.transfer, None, "no rule")))
    assert (record.outcome, record.reason) == (w.Outcome.REFUSED, "no rule")
    assert record.by_policy
    assert desk.core.deadline is None


@pytest.mark.parametrize(
    ("types", "reason"),
    [((), c.HOST_EMPTY), (("text/html",), c.HOST_EMPTY), (("text/uri-list",), c.FILES)],
)
def test_nothing_that_may_come(types, reason):
    desk = Inward()
    assert desk.reason(desk.ask(types=types)) == reason


def test_only_what_the_rule_names_is_read():
    desk = Inward()
    (policy,) = desk.ask()
    (read,) = desk.say(("", w.Decided(policy.transfer, w.PasteTerms(("image/png",)))))
    assert read.message.name == "image/png"
    (policy,) = Inward().ask()
    desk = Inward()
    (policy,) = desk.ask()
    assert desk.reason(
        desk.say(("", w.Decided(policy.transfer, w.PasteTerms(()))))
    ) == (c.NO_TYPE)


@pytest.mark.parametrize(("most", "room"), [(10, 10), (1 << 40, 64_000)])
def test_the_stricter_size_is_read(most, room):
    assert Inward().read(w.PasteTerms(max_bytes=most)).message.max_bytes == room


def test_larger_than_that_is_refused_whole():
    desk = Inward()
    read = desk.read(w.PasteTerms(("text/plain",), max_bytes=5))
    said = desk.say(("work", ipc.ClipboardLarge(read.message.transfer)))
    assert desk.reason(said) == c.LARGE


def test_after_a_dialog_it_waits_for_the_focus_to_return():
    desk = Inward()
    (policy,) = desk.ask()
    assert desk.say(("work", ipc.ClipboardFocus(taken=False))) == []
    assert desk.say(("", w.Decided(policy.transfer, TERMS))) == []
    (read,) = desk.say(("work", ipc.ClipboardFocus(taken=True)))
    assert is_order(read, ipc.ReadType)


def test_and_not_for_ever():
    desk = Inward()
    (policy,) = desk.ask()
    desk.say(("work", ipc.ClipboardFocus(taken=False)))
    desk.say(("", w.Decided(policy.transfer, TERMS)))
    desk.now += limits.CLIPBOARD_COPY_SECONDS
    assert desk.reason(desk.say(("", w.Ticked()))) == c.SLOW
    assert desk.say(("work", ipc.ClipboardFocus(taken=True))) == []


@pytest.mark.parametrize("step", ["types", "policy", "read"])
def test_a_focus_that_moves_ends_it(step):
    desk = Inward()
    (asked,) = desk.press()
    if step != "types":
        said = desk.say(
            ("work", ipc.ClipboardTypes(asked.message.transfer, ("text/plain",)))
        )
        if step == "read":
            desk.say(("", w.Decided(said[0].transfer, TERMS)))
    said = desk.say(("evil", ipc.ClipboardFocus(taken=True)))
    assert kinds(said) == [ipc.StopRead, w.RecordCrossing]
    assert desk.reason(said) == c.MOVED
    assert desk.core.deadline is None


def test_one_at_a_time():
    desk = Inward()
    desk.ask()
    assert desk.reason(desk.press()) == c.BUSY
    assert desk.reason(desk.say(("work", w.CopyPressed()))) == c.BUSY


def test_types_that_are_told_twice_are_the_workers_fault():
    desk = Inward()
    (policy,) = desk.ask()
    said = desk.say(("work", ipc.ClipboardTypes(policy.transfer, ("text/plain",))))
    assert kinds(said) == [ipc.StopRead, w.RecordCrossing, w.Blame]
    assert desk.say(("", w.Decided(policy.transfer, TERMS))) == []


def test_an_undecided_transfer_ends():
    desk = Inward()
    desk.ask()
    desk.now += limits.CLIPBOARD_DECIDE_SECONDS
    assert desk.reason(desk.say(("", w.Ticked()))) == c.UNDECIDED
    assert desk.core.deadline is None
