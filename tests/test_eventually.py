"""The kit's one way to wait for what sends no event."""

from __future__ import annotations

import pytest
import trio

from tests.kit.eventually import NeverError, eventually


async def test_eventually_returns_the_first_true_answer(autojump_clock):
    answers = iter([0, "", None, [], "there", "later"])
    assert await eventually(lambda: next(answers)) == "there"


async def test_eventually_awaits_a_coroutine_function(autojump_clock):
    async def look():
        await trio.sleep(1)
        return trio.current_time() > began + 5

    began = trio.current_time()
    assert await eventually(look, every=1)


async def test_eventually_names_the_condition_and_the_last_answer(autojump_clock):
    def look():
        return 0

    with pytest.raises(NeverError, match=r"within 3 s: .*look; the last answer: 0"):
        await eventually(look, deadline=3)


async def test_eventually_lets_the_condition_s_own_error_through(autojump_clock):
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 / 0)


async def test_eventually_ends_a_condition_that_hangs(autojump_clock):
    with pytest.raises(NeverError):
        await eventually(trio.sleep_forever, deadline=2)
