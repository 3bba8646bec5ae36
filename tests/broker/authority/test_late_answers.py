"""A yes that comes when the client has given up counts for its next connection."""

from __future__ import annotations

import contextlib

import pytest
import trio

from broker.core import limits
from broker.core.errors import RefusedError
from tests.kit.rulebook import VAULT, WORK, no, rulebook, yes

ASKS = "t.Sound * work @adminvm ask\nt.Sound * vault @adminvm ask\n"
SOUND = "t.Sound"


async def given_up(b, says, lease=WORK):
    """A connection that is closed while its question waits, and the answer then."""
    gone = trio.Event()

    async def late(question):
        gone.set()
        await trio.testing.wait_all_tasks_blocked()
        return says(question)

    b.person.says = late
    with pytest.raises(RefusedError) as caught:
        async with b.decider.permit(b.request(SOUND, lease), gone=gone):
            raise AssertionError("nothing is carried for it")
    b.person.says = None
    return caught.value


async def carried(b, lease=WORK):
    async with b.decider.permit(b.request(SOUND, lease), gone=trio.Event()) as permit:
        return permit.target


async def asked_again(b, lease=WORK):
    """Whether the next connection has to ask."""
    before = len(b.person.asked)
    b.person.says = no
    with contextlib.suppress(RefusedError):
        await carried(b, lease)
    return len(b.person.asked) > before


async def test_a_late_yes_counts_for_the_next_connection_once():
    async with rulebook(ASKS) as b:
        error = await given_up(b, yes())
        assert "the answer applies to the next attempt within 120 s" in error.message
        assert b.person.missing == [1]
        assert await carried(b) == "dom0"
        assert len(b.person.asked) == 1
        assert await asked_again(b), "it was for one connection"
        (said, *_) = b.events("question.answered")
        assert (said["answer"], said["answered_by"]) == ("allow", "person")
        reasons = [e.get("reason", "") for e in b.events("decision")]
        assert any("given up before the answer" in reason for reason in reasons)
        assert any(
            "the user allowed an earlier request" in reason for reason in reasons
        )


async def test_a_late_no_is_a_no():
    async with rulebook(ASKS) as b:
        assert "the user said no" in (await given_up(b, no)).message
        assert await asked_again(b)


async def test_it_counts_for_the_same_sandbox_and_service_alone():
    async with rulebook(ASKS + "t.Ask * work @adminvm ask\n") as b:
        await given_up(b, yes())
        assert await asked_again(b, VAULT)
        b.person.says = no
        with pytest.raises(RefusedError):
            await b.once("t.Ask")
        assert await carried(b) == "dom0"


async def test_it_counts_for_two_minutes(autojump_clock):
    async with rulebook(ASKS) as b:
        await given_up(b, yes())
        await trio.sleep(limits.LATE_ANSWER_SECONDS - 0.1)
        assert await carried(b) == "dom0"
        await given_up(b, yes())
        await trio.sleep(limits.LATE_ANSWER_SECONDS)
        assert await asked_again(b)


@pytest.mark.parametrize(
    "rules",
    [
        "t.Sound * work @adminvm ask ttl=5m\n",
        "t.Sound * work @adminvm deny\n",
    ],
)
async def test_rules_that_changed_meanwhile_win(rules):
    async with rulebook(ASKS) as b:
        await given_up(b, yes())
        await b.change("50-test.policy", rules)
        if "deny" in rules:
            with pytest.raises(RefusedError):
                await carried(b)
        else:
            assert await asked_again(b)


async def test_it_ends_with_the_sandbox():
    async with rulebook(ASKS) as b:
        await given_up(b, yes())
        await b.decider.lease_ended(WORK.id)
        assert await asked_again(b)
