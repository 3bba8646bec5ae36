"""Questions that wait: merged, bounded, fair, and each with an end."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.authority.questions import queue
from broker.authority.questions.queue import AGAIN, FULL, TOO_OFTEN
from broker.core import limits
from broker.core.question import Keep, PersonAnswer
from tests.kit.prompting import question


class Queue(queue.Queue):
    """A queue in which a question may be shown at once."""

    def ask(self, question, now):
        got = super().ask(question, now)
        if isinstance(got, int):
            self.release(got)
        return got


YES = PersonAnswer(allow=True, target="dom0", by="person")
NO = PersonAnswer(allow=False, by="person")


def of(sandbox, number=0):
    return question(
        sandbox=sandbox, lease=sandbox, record=sandbox, argument=str(number)
    )


def test_equal_questions_are_one():
    queue = Queue()
    keeps = (Keep.ONCE, Keep.SESSION)
    first, second, other = (
        queue.ask(msgspec.structs.replace(of(s), keeps=keeps), 0.0)
        for s in ("a", "a", "b")
    )
    assert len(queue.all()) == 2
    entry = queue.front()
    always = msgspec.structs.replace(YES, keep=Keep.SESSION)
    assert queue.answer(entry.id, always, 1.0) == [(first, always), (second, always)]
    assert queue.answer(entry.id, always, 1.0) == [], "it is answered once"
    assert [e.askers for e in queue.all()] == [[other]]


def test_one_that_is_gone_and_wants_the_answer_holds_one_question():
    """A second caller with the same question replaces it, however often it comes."""
    queue = Queue()
    first = queue.ask(of("a"), 0.0)
    assert queue.absent(first)
    second = queue.ask(of("a"), 1.0)
    assert not queue.absent(second), "one connection is held for a question, not more"
    queue.leave(second)
    (entry,) = queue.all()
    assert queue.answer(entry.id, YES, 2.0) == [(first, YES)]
    assert not queue.absent(first)


def test_a_yes_is_for_one_that_still_waits():
    queue = Queue()
    first = queue.ask(of("a"), 0.0)
    queue.absent(first)
    second = queue.ask(of("a"), 31.0)
    (entry,) = queue.all()
    (yes, no) = queue.answer(entry.id, YES, 40.0)
    assert yes == (second, YES)
    assert (no[0], no[1].allow, no[1].by) == (first, False, "gone")
    assert not queue.all(), "and it is not asked again for the one that has gone"


def test_one_that_no_waiter_for_goes():
    queue = Queue()
    first, second = queue.ask(of("a"), 0.0), queue.ask(of("a"), 0.0)
    queue.leave(first)
    assert queue.all()
    queue.leave(second)
    queue.leave(second)
    assert queue.front() is None


def test_an_unrecorded_question_is_not_shown():
    """It has its place and counts, all the same."""
    waiting = queue.Queue()
    first, second = waiting.ask(of("a"), 0.0), waiting.ask(of("a"), 0.0)
    assert waiting.front() is None
    assert len(waiting.all()) == 1
    waiting.release(second)
    assert waiting.front().askers == [first, second]


def test_the_sandbox_shown_longest_ago_is_next():
    """A flood does not come before others' questions."""
    queue = Queue()
    for number in range(3):
        queue.ask(of("flood", number), 0.0)
    queue.ask(of("calm"), 1.0)
    order = []
    while (entry := queue.front()) is not None:
        queue.show(entry, 1.0)
        order.append(entry.question.sandbox)
        queue.answer(entry.id, YES, 2.0)
    assert order == ["flood", "calm", "flood", "flood"]


def test_no_answer_in_time_is_a_no():
    queue = Queue()
    asker = queue.ask(of("a"), 5.0)
    assert queue.deadline() == 5.0 + limits.QUESTION_SECONDS
    assert queue.expire(queue.deadline() - 0.001) == []
    ((who, answer),) = queue.expire(queue.deadline())
    assert (who, answer.allow, answer.by) == (asker, False, "timeout")
    assert queue.deadline() == float("inf")


def test_time_of_a_question_begins_on_the_screen():
    """A slow prompt agent takes nothing of the user's minute."""
    queue, seconds = Queue(), limits.QUESTION_SECONDS
    queue.ask(of("a"), 0.0)
    entry = queue.front()
    queue.show(entry, 20.0)
    queue.mark_seen(entry.id, 30.0)
    assert entry.deadline == 30.0 + seconds
    queue.mark_seen(entry.id, 50.0)
    assert entry.deadline == 30.0 + seconds, "a dialog that is raised has no new minute"


@pytest.mark.parametrize("asked_at", [0.0, 40.0])
def test_a_question_behind_another_keeps_its_minute(asked_at):
    """It is denied only after the user has had a minute to read it."""
    queue, seconds = Queue(), limits.QUESTION_SECONDS
    first = queue.ask(of("a"), 0.0)
    queue.show(queue.front(), 0.0)
    queue.mark_seen(1, 0.0)
    second = queue.ask(of("a", 1), asked_at)
    assert [asker for asker, _ in queue.expire(seconds)] == [first]
    entry = queue.front()
    assert entry.askers == [second]
    queue.show(entry, seconds)
    queue.mark_seen(entry.id, seconds + 1)
    assert queue.expire(2 * seconds) == []
    assert [asker for asker, _ in queue.expire(2 * seconds + 1)] == [second]


def test_a_question_that_is_never_shown_ends():
    """One sandbox's questions keep nobody waiting for hours."""
    queue, now = Queue(), 0.0
    behind = queue.ask(of("a", 9), now)
    ended = []
    for _ in range(10):
        if behind in ended:
            break
        for sandbox in "bcde":
            queue.ask(of(sandbox, now), now)
        other = next(e for e in queue.all() if e.question.sandbox != "a")
        queue.show(other, now)
        queue.mark_seen(other.id, now)
        now = queue.deadline()
        ended += [asker for asker, _ in queue.expire(now)]
    assert now == limits.QUESTION_WAIT_SECONDS


def test_the_number_of_waiting_questions_has_those_that_may_be_shown():
    waiting = queue.Queue()
    for number in range(3):
        waiting.ask(of("a", number), 0.0)
    waiting.release(1)
    waiting.release(2)
    assert waiting.behind(1) == 1


def test_so_many_of_one_sandbox_and_one_more(monkeypatch):
    monkeypatch.setattr(limits, "QUESTIONS_BURST", 100)
    queue = Queue()
    for number in range(limits.QUESTIONS_PER_SANDBOX):
        assert isinstance(queue.ask(of("a", number), 0.0), int)
    assert queue.ask(of("a", 99), 0.0).reason == TOO_OFTEN
    assert isinstance(queue.ask(of("a", 0), 0.0), int), "an equal one merges still"
    assert isinstance(queue.ask(of("b"), 0.0), int)


def test_so_many_in_all_and_one_more():
    queue = Queue()
    for number in range(limits.QUESTIONS_WAITING):
        assert isinstance(queue.ask(of(f"s{number}"), 0.0), int)
    assert queue.ask(of("more"), 0.0).reason == FULL


def test_so_many_who_ask_the_same_and_one_more():
    queue = Queue()
    for _ in range(limits.QUESTION_ASKERS):
        assert isinstance(queue.ask(of("a"), 0.0), int)
    assert queue.ask(of("a"), 0.0).reason == FULL


def test_too_often_is_a_no_without_a_dialog_and_recovers():
    """To be refused costs nothing: a flood does not shut itself out for ever."""
    queue, now = Queue(), 0.0
    for number in range(limits.QUESTIONS_BURST):
        queue.ask(of("a", number), now)
        queue.answer(queue.front().id, YES, now)
    for number in range(1000):
        assert queue.ask(of("a", number), now).reason == TOO_OFTEN
    assert isinstance(queue.ask(of("b"), now), int)
    wait = 60 / limits.QUESTIONS_PER_MINUTE
    assert queue.refusal(of("a"), now + wait - 0.01) == TOO_OFTEN
    assert isinstance(queue.ask(of("a"), now + wait), int)


def test_the_same_again_after_a_no():
    queue = Queue()
    queue.ask(of("a"), 0.0)
    queue.answer(queue.front().id, NO, 1.0)
    assert queue.ask(of("a"), 1.0 + limits.QUESTION_AGAIN_SECONDS - 0.1).reason == AGAIN
    assert isinstance(queue.ask(of("a", "other"), 2.0), int)
    assert isinstance(queue.ask(of("a"), 1.0 + limits.QUESTION_AGAIN_SECONDS), int)


@pytest.mark.parametrize(
    "forged",
    [
        PersonAnswer(allow=True, target="vault", by="person"),
        PersonAnswer(allow=True, target="", by="person"),
        PersonAnswer(allow=True, target="dom0", keep=Keep.SESSION, by="person"),
        PersonAnswer(allow=True, target="dom0", keep=Keep.TIME, by="person"),
    ],
)
def test_an_answer_that_was_not_offered_is_a_no(forged):
    queue = Queue()
    asker = queue.ask(of("a"), 0.0)
    ((who, answer),) = queue.answer(queue.front().id, forged, 1.0)
    assert (who, answer.allow, answer.by) == (asker, False, "broker")
    assert answer.reason


def test_a_sandbox_that_stops_takes_its_questions_along():
    queue = Queue()
    mine, other = queue.ask(of("a"), 0.0), queue.ask(of("b"), 0.0)
    ((who, answer),) = queue.forget("a")
    assert (who, answer.allow, answer.by) == (mine, False, "gone")
    assert queue.fail_all("x") == [(other, PersonAnswer(allow=False, reason="x"))]


class Asking(RuleBasedStateMachine):
    """In any order of events, each asker gets exactly one answer, or has left."""

    def __init__(self):
        super().__init__()
        self.queue = Queue()
        self.now = 0.0
        self.waiting = {}
        self.yes = set()

    def hear(self, settled):
        for asker, answer in settled:
            asked = self.waiting.pop(asker)  # KeyError: heard twice, or had left
            if answer.allow:
                assert answer.target in asked.targets
                assert answer.keep in asked.keeps

    @rule(sandbox=st.sampled_from("abc"), number=st.integers(0, 6))
    def ask(self, sandbox, number):
        asked = of(sandbox, number)
        refusal = self.queue.refusal(asked, self.now)
        got = self.queue.ask(asked, self.now)
        if isinstance(got, PersonAnswer):
            assert not got.allow
            assert got.reason == refusal != ""
        else:
            assert refusal == ""
            assert got not in self.waiting
            self.waiting[got] = asked

    @rule(data=st.data())
    def leave(self, data):
        if self.waiting:
            asker = data.draw(st.sampled_from(sorted(self.waiting)))
            self.queue.leave(asker)
            del self.waiting[asker]

    @rule(
        number=st.integers(0, 30),
        allow=st.booleans(),
        chosen=st.sampled_from(["dom0", "vault", ""]),
        keep=st.sampled_from(Keep),
    )
    def answer(self, number, allow, chosen, keep):
        said = PersonAnswer(allow=allow, target=chosen, keep=keep, by="person")
        self.hear(self.queue.answer(number, said, self.now))

    @rule()
    def show(self):
        entry = self.queue.front()
        if entry is not None:
            others = [e.question.record for e in self.queue.all()]
            turn = self.queue._shown_at.get
            assert turn(entry.question.record, 0) == min(turn(x, 0) for x in others)
            self.queue.show(entry, self.now)

    @rule(number=st.integers(0, 30))
    def mark_seen(self, number):
        self.queue.mark_seen(number, self.now)

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds):
        self.now += seconds
        self.hear(self.queue.expire(self.now))

    @rule(sandbox=st.sampled_from("abc"))
    def stop(self, sandbox):
        self.hear(self.queue.forget(sandbox))

    @rule()
    def die(self):
        self.hear(self.queue.fail_all("died"))
        assert self.waiting == {}

    @invariant()
    def all_is_bounded(self):
        entries = self.queue.all()
        assert sorted(a for e in entries for a in e.askers) == sorted(self.waiting)
        assert all(e.deadline > self.now for e in entries)
        for sandbox in "abc":
            mine = [e for e in entries if e.question.sandbox == sandbox]
            assert len(mine) <= limits.QUESTIONS_PER_SANDBOX
        assert len({e.question for e in entries}) == len(entries)


TestAsking = Asking.TestCase
TestAsking.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
