"""The kit's one way to wait for what sends no event."""

from __future__ import annotations

import pytest
import trio

from broker.helpers.process.spawn import spawn
from tests.kit.brokerctl import home, running
from tests.kit.eventually import NeverError, eventually, ready


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


async def test_ready_waits_for_a_server_s_file(tmp_path):
    made = tmp_path / "made"
    child = spawn(["sh", "-c", f"touch {made}; exec sleep 1000"])
    try:
        await ready(child, made.exists)
    finally:
        await child.stop()


async def test_ready_fails_at_once_with_the_words_of_a_server_that_ended(tmp_path):
    output = tmp_path / "output"
    with output.open("wb") as out:
        child = spawn(["sh", "-c", "echo no such option"], stdout=out.fileno())
    with pytest.raises(AssertionError, match="sh has ended: no such option"):
        await ready(child, lambda: False, output=output)
    await child.wait()


async def test_an_error_beside_brokerctl_has_what_that_wrote():
    async def never(env):
        async with running("no-such-verb", env=env) as child:
            await child.wait()
            await eventually(lambda: 0, deadline=0.1)

    with home() as env, pytest.raises(NeverError) as why:
        await never(env)
    (note,) = why.value.__notes__
    assert note.startswith("brokerctl no-such-verb: has ended\n")
    assert "'no-such-verb'" in note
