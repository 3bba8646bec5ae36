"""The way to a window: which step is named when it is missing."""

from __future__ import annotations

import pytest

from broker.viewer.sandboxes.launch_steps import TEXTS, LaunchProgress, Step


def test_steps_are_reached_in_order_with_their_times():
    way = LaunchProgress(now=100.0)
    assert way.next is Step.MACHINE
    assert way.reach(Step.MACHINE, 100.5) == [(Step.MACHINE, 0.5)]
    assert way.reach(Step.AGENT, 103.0) == [(Step.AGENT, 2.5)]
    assert way.next is Step.PROGRAM


def test_a_later_step_proves_the_earlier_ones():
    way = LaunchProgress(now=0.0)
    new = [step for step, _ in way.reach(Step.STREAM, 1.0)]
    assert new == [Step.MACHINE, Step.AGENT, Step.PROGRAM, Step.STREAM]


def test_a_step_is_reached_once():
    way = LaunchProgress(now=0.0)
    way.reach(Step.AGENT, 1.0)
    assert way.reach(Step.AGENT, 2.0) == []


@pytest.mark.parametrize("reached", list(Step)[:-1])
def test_a_failure_names_the_step_that_was_waited_for(reached):
    way = LaunchProgress(now=0.0)
    way.reach(reached, 1.0)
    failure = way.fail("no answer")
    assert failure.step == Step(reached + 1)
    assert failure.reason == "no answer"
    assert "work-1" in failure.hint("work-1") or "{" not in failure.hint("work-1")


def test_the_first_failure_stays():
    way = LaunchProgress(now=0.0)
    first = way.fail("the VMM died")
    assert way.fail("and so did its streams") is first


def test_what_ends_after_the_window_is_no_failure_of_the_way():
    way = LaunchProgress(now=0.0)
    way.reach(Step.WINDOW, 1.0)
    assert way.complete
    assert way.fail("closed by the person") is None


def test_every_step_has_its_words():
    assert set(TEXTS) == set(Step)
