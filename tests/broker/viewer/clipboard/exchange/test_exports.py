"""Out of a sandbox into the person's own selection, and back by another chord."""

from __future__ import annotations

import itertools

import pytest

from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons as c
from tests.broker.viewer.clipboard.exchange.test_broker import (
    TEXT,
    Desk,
    is_order,
)

TERMS = w.PasteTerms(rule="r:4", ttl=60)


class Outward(Desk):
    def __init__(self) -> None:
        numbers = itertools.count(1)
        super().__init__(new_mark=lambda: f"application/x-mark-{next(numbers)}")

    def ask(self, sandbox="work") -> w.AskPolicy:
        self.focus(sandbox)
        (asked,) = self.say((sandbox, w.CopyPressed(press=7, outward=True)))
        (read,) = self.say(
            (sandbox, ipc.ClipboardTypes(asked.message.transfer, ("text/plain",)))
        )
        copied, policy = self.say(
            (sandbox, w.CheckedContent(read.message.transfer, TEXT))
        )
        assert copied.outcome is w.Outcome.COPIED
        assert (policy.source, policy.target) == (sandbox, w.VIEWER)
        assert policy.kinds == (("text/plain", len(TEXT)),)
        return policy

    def export(self, sandbox="work", terms=TERMS) -> w.WorkerOrder:
        policy = self.ask(sandbox)
        record, export = self.say(("", w.Decided(policy.transfer, terms)))
        assert record.outcome is w.Outcome.EXPORTED
        assert (record.source, record.target, record.rule) == (sandbox, w.VIEWER, "r:4")
        assert export.message.press == 7
        return export

    def back(self, target, *types) -> list[w.Action]:
        """The paste chord in a sandbox, where the selection has these types."""
        self.say(("", w.Cleared()))
        self.focus(target)
        (asked,) = self.say((target, w.PastePressed(w.CopyTerms())))
        told = (
            target,
            ipc.ClipboardTypes(asked.message.transfer, ("text/plain", *types)),
        )
        return self.say(told)


def test_it_is_exported_by_the_chords_press_and_stays_for_sandboxes_too():
    desk = Outward()
    export = desk.export()
    assert export.items == (w.Item("text/plain", TEXT),)
    assert desk.say(("work", ipc.Exported(export.message.transfer))) == []
    status = desk.core.status(desk.now)
    assert (status.source, status.exported) == ("work", "work")


def test_without_a_rule_no_question_is_asked():
    desk = Outward()
    assert desk.copy().outcome is w.Outcome.COPIED


@pytest.mark.parametrize("replaced", [True, False])
def test_a_newer_copy_of_the_users_programs_ends_what_was_exported(replaced):
    """Not if its window was closed: then nothing newer was copied."""
    case = Outward()
    transfer = case.export().message.transfer
    case.say(("work", ipc.Exported(transfer)))
    case.focus("personal")
    (action,) = case.say(("personal", w.PastePressed(w.CopyTerms(), "its mark")))
    assert isinstance(action, w.AskPolicy), "the selection is the held content"
    case.say(("", w.Decided(action.transfer, None, "no")))
    assert case.say(("work", ipc.ExportEnded(transfer, replaced))) == []
    assert case.core.status(case.now).source == ("" if replaced else "work")


def test_denied_it_is_only_held():
    desk = Outward()
    policy = desk.ask()
    (record,) = desk.say(("", w.Decided(policy.transfer, None, "no")))
    assert (record.target, record.reason, record.by_policy) == (w.VIEWER, "no", True)
    assert desk.core.status(desk.now).source == "work"
    assert desk.core.status(desk.now).exported == ""


def test_what_the_compositor_does_not_take_is_told():
    desk = Outward()
    export = desk.export()
    (record,) = desk.say(("work", ipc.Exported(export.message.transfer, "no echo")))
    assert (record.outcome, record.reason) == (w.Outcome.DROPPED, "no echo")
    assert desk.core.status(desk.now).exported == ""


def test_after_a_dialog_it_waits_for_the_focus_to_return():
    desk = Outward()
    policy = desk.ask()
    desk.say(("work", ipc.ClipboardFocus(taken=False)))
    assert desk.say(("", w.Decided(policy.transfer, TERMS))) == []
    _, export = desk.say(("work", ipc.ClipboardFocus(taken=True)))
    assert is_order(export, ipc.Export)


@pytest.mark.parametrize("decided", [False, True])
def test_another_sandbox_with_the_focus_ends_it(decided):
    desk = Outward()
    policy = desk.ask()
    desk.say(("work", ipc.ClipboardFocus(taken=False)))
    if decided:
        desk.say(("", w.Decided(policy.transfer, TERMS)))
    assert desk.reason(desk.say(("evil", ipc.ClipboardFocus(taken=True)))) == c.MOVED
    desk.say(("evil", ipc.ClipboardFocus(taken=False)))
    assert desk.say(("work", ipc.ClipboardFocus(taken=True))) == []
    assert desk.say(("", w.Decided(policy.transfer, TERMS))) == []


@pytest.mark.parametrize("decided", [False, True])
def test_it_waits_for_so_long(decided):
    desk = Outward()
    policy = desk.ask()
    desk.say(("work", ipc.ClipboardFocus(taken=False)))
    wait = limits.CLIPBOARD_DECIDE_SECONDS
    if decided:
        desk.say(("", w.Decided(policy.transfer, TERMS)))
        wait = limits.CLIPBOARD_COPY_SECONDS
    assert desk.core.deadline == desk.now + wait
    desk.now += wait
    assert desk.reason(desk.say(("", w.Ticked()))) == c.UNDECIDED


def test_the_size_of_the_rule_counts():
    desk = Outward()
    policy = desk.ask()
    said = desk.say(("", w.Decided(policy.transfer, w.PasteTerms(max_bytes=3))))
    assert desk.reason(said) == c.LARGE


def test_its_time_is_over():
    desk = Outward()
    export = desk.export()
    desk.now += 60
    withdraw, record = desk.say(("", w.Ticked()))
    assert withdraw == w.WorkerOrder("work", ipc.Withdraw(export.message.transfer))
    assert (record.outcome, record.target) == (w.Outcome.EXPIRED, w.VIEWER)


def test_cleared_it_is_taken_back():
    desk = Outward()
    export = desk.export()
    assert w.WorkerOrder("work", ipc.Withdraw(export.message.transfer)) in desk.say(
        ("", w.Cleared())
    )
    assert desk.core.deadline is None


def test_replaced_by_the_persons_own_there_is_nothing_to_take_back():
    desk = Outward()
    export = desk.export()
    desk.say(("evil", ipc.ExportEnded(export.message.transfer)))
    assert desk.core.status(desk.now).exported == "work"
    desk.say(("work", ipc.ExportEnded(export.message.transfer)))
    assert not any(is_order(a, ipc.Withdraw) for a in desk.say(("", w.Cleared())))


def test_another_worker_cannot_answer():
    desk = Outward()
    export = desk.export()
    (blame,) = desk.say(("evil", ipc.Exported(export.message.transfer)))
    assert blame.sandbox == "evil"


def test_a_copy_replaces_an_export_that_is_not_decided():
    desk = Outward()
    policy = desk.ask()
    dropped, _ = desk.say(("work", w.CopyPressed()))
    assert (dropped.target, dropped.reason) == (w.VIEWER, c.REPLACED)
    assert desk.say(("", w.Decided(policy.transfer, TERMS))) == []


# -- content that comes back ----------------------------------------------------------


def test_what_a_sandbox_exported_is_still_its_own():
    desk = Outward()
    export = desk.export()
    (policy,) = desk.back("personal", export.message.mark)
    assert (policy.source, policy.origin) == (w.VIEWER, "work")
    desk.say(("", w.Decided(policy.transfer, None, "no")))
    assert desk.reason(desk.back("work", export.message.mark)) == c.SAME
    (policy,) = desk.back("personal", "application/x-mark-99")
    assert policy.origin == ""


def test_what_an_ended_sandbox_exported_comes_into_no_other():
    """Its name may be another's by now."""
    desk = Outward()
    export = desk.export()
    desk.say(("work", w.SandboxGone()))
    assert desk.reason(desk.back("personal", export.message.mark)) == c.ORIGIN_GONE


def test_so_many_origins_are_remembered():
    desk = Outward()
    marks = [desk.export().message.mark for _ in range(limits.CLIPBOARD_MARKS + 1)]
    (policy,) = desk.back("personal", marks[1])
    assert policy.origin == "work"
    desk.say(("", w.Decided(policy.transfer, None)))
    (policy,) = desk.back("personal", marks[0])
    assert policy.origin == ""
