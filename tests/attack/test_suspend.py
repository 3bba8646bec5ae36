"""A machine that sleeps: a permission for ten minutes is not open the next morning."""

from __future__ import annotations

import pytest
import trio

from broker.authority import boottime_clock
from broker.core.errors import RefusedError
from broker.core.question import Keep
from tests.kit.rulebook import rulebook, yes

NIGHT = 8 * 3600.0


@pytest.fixture
def sleeps(monkeypatch):
    """Let the machine sleep: CLOCK_BOOTTIME continues, the event loop's clock stops."""
    apart = [1000.0]
    monkeypatch.setattr(boottime_clock, "_apart", lambda: apart[0])

    def sleep() -> None:
        apart[0] += NIGHT

    return sleep


async def test_a_grant_for_ten_minutes_is_over_after_a_night(sleeps):
    rule = "t.Ask * @anyvm @adminvm ask ttl=10m\n"
    async with rulebook(rule) as b:
        b.person.says = yes(Keep.TIME)
        await b.once()
        await b.once()
        assert len(b.person.asked) == 1
        sleeps()
        await b.once()
        assert len(b.person.asked) == 2, "it is asked again"


@pytest.mark.parametrize("keep", [Keep.ONCE, Keep.TIME])
async def test_what_is_in_use_is_cut_after_a_night(sleeps, keep):
    rule = "t.Ask * @anyvm @adminvm ask ttl=10m\n"
    async with rulebook(rule) as b:
        b.person.says = yes(keep)

        async def use() -> None:
            async with b.decider.permit(b.request()):
                sleeps()
                await b.decider.forget_over()
                with trio.move_on_after(5):
                    await trio.sleep_forever()

        with pytest.raises(RefusedError, match="time limit"):
            await use()
        assert b.decider.grants.all(b.decider.clock.now()) == []


async def test_a_gesture_of_the_evening_is_none_in_the_morning(sleeps):
    rule = "t.Ask * @anyvm @adminvm allow gesture=10s\n"
    async with rulebook(rule) as b:
        lease = b.request().lease
        b.decider.acted(lease.id)
        await b.once()
        sleeps()
        with pytest.raises(RefusedError, match="no input"):
            await b.once()


async def test_the_difference_of_two_readings_is_no_sleep(monkeypatch):
    apart = [0.0]
    monkeypatch.setattr(boottime_clock, "_apart", lambda: apart[0])
    clock = boottime_clock.BoottimeClock()
    apart[0] = 0.4
    assert clock.slept() == 0.0
    apart[0] = 60.0
    assert clock.slept() == 60.0
    assert clock.now() == pytest.approx(trio.current_time() + 60.0, abs=1)
    assert clock.deadline(100.0) == 40.0
