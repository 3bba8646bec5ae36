"""``brokerctl pending``, ``answer``, ``grants`` and ``prompt``, as a person types them."""

from __future__ import annotations

import msgspec
import pytest

from broker.cli import grants, pending
from broker.ipc.control.api import (
    GrantRevokeRequest,
    GrantStatus,
    PendingQuestion,
    QuestionAnswerRequest,
)
from tests.kit.brokerctl import brokerctl, harmless, home, paths_of
from tests.kit.control import ScriptedBroker, serving

QUESTION = PendingQuestion(
    id=7,
    sandbox="work",
    record="work",
    label="Work \x1b[31m",
    color="#009e73",
    service="vitrail.OpenURL",
    argument="\u202ex",
    words="to open an address",
    details=["host: example.org", "type: \x07"],
    targets=["@dispvm:web", "personal"],
    default_target="personal",
    keeps=["once", "time"],
    seconds=600,
    rule="/etc/vitrail/policy.d/30-mine.policy:3",
    left=41.6,
    shown=True,
)
GRANT = GrantStatus(
    id="00aabbcc",
    sandbox="work",
    service="vitrail.AudioInput",
    argument="",
    target="dom0",
    keep="time",
    rule="/etc/vitrail/policy.d/30-mine.policy:4",
    left=90.4,
    live=1,
)


@pytest.fixture(name="env")
def _env():
    with home() as env:
        yield env


def test_a_question_as_text():
    """Text from a sandbox is escaped here, too: the broker is another program."""
    lines = pending.lines(QUESTION)
    assert all(harmless(line) for line in lines)
    assert lines[0].startswith("7: work (Work ")
    assert lines[0].endswith("wants to open an address [42 s left, on the screen]")
    assert "   targets: @dispvm:web, [personal]" in lines
    assert "   durations: once, time" in lines
    assert "   host: example.org" in lines
    # The host of an ssh key's use is one whose signature was checked.
    checked = msgspec.structs.replace(QUESTION, service="vitrail.SshAgent")
    assert "   host: example.org" in pending.lines(checked)


def test_a_grant_as_text():
    shared = msgspec.structs.replace(GRANT, argument="a", about="/home/me/a")
    assert "+a (/home/me/a) to you: 90 s left" in grants.line(shared)
    assert grants.line(GRANT) == (
        "00aabbcc work vitrail.AudioInput to you: 90 s left, 1 in use "
        "(/etc/vitrail/policy.d/30-mine.policy:4)"
    )


async def test_pending_and_answer(env):
    broker = ScriptedBroker(questions=[QUESTION])
    async with serving(paths_of(env).control, broker):
        shown = await brokerctl("pending", env=env)
        assert (shown.code, shown.lines) == (0, pending.lines(QUESTION))
        (found,) = (await brokerctl("pending", "--json", env=env)).objects
        assert found["questions"][0]["id"] == 7
        words = ("answer", "7", "allow", "--target", "@dispvm:web", "--keep", "time")
        assert (await brokerctl(*words, env=env)).code == 0
        assert broker.asked == [
            (
                "answer",
                QuestionAnswerRequest(
                    id=7, allow=True, target="@dispvm:web", keep="time"
                ),
            )
        ]
        for word, allowed in (("yes", True), ("no", False)):
            assert (await brokerctl("answer", "7", word, env=env)).code == 0
            assert broker.asked[-1][1].allow is allowed
        broker.questions = []
        none = await brokerctl("pending", env=env)
        assert (none.code, none.out) == (0, "")
        assert "no question is pending" in none.err
        none = await brokerctl("pending", "--json", env=env)
        assert (none.code, none.objects) == (0, [{"questions": []}])
        assert (await brokerctl("answer", "7", "maybe", env=env)).code == 2


async def test_grants(env):
    broker = ScriptedBroker(held_grants=[GRANT])
    async with serving(paths_of(env).control, broker):
        for words in (("grants",), ("grants", "list")):
            shown = await brokerctl(*words, env=env)
            assert (shown.code, shown.lines) == (0, [grants.line(GRANT)])
        assert (await brokerctl("grants", "revoke", GRANT.id, env=env)).code == 0
        assert (await brokerctl("grants", "revoke", "none", env=env)).code == 1
        assert (await brokerctl("grants", "revoke", env=env)).code == 2
        assert (await brokerctl("grants", "revoke", "--all", env=env)).code == 0
        assert broker.asked[0] == ("revoke", GrantRevokeRequest(id=GRANT.id))
        assert broker.asked[-1] == ("revoke", GrantRevokeRequest(id=None))


async def test_the_phrase(env):
    """Made where there is none; one's own words are kept; no words are no phrase."""
    first = await brokerctl("prompt", "phrase", env=env)
    assert (first.code, len(first.out.split())) == (0, 3)
    assert (await brokerctl("prompt", "phrase", env=env)).out == first.out
    own = await brokerctl("prompt", "phrase", "my", "own", "words", env=env)
    assert own.out == "my own words\n"
    assert (await brokerctl("prompt", "phrase", "abc", env=env)).code == 1
    assert (await brokerctl("prompt", "phrase", env=env)).out == own.out
    new = await brokerctl("prompt", "phrase", "--new", env=env)
    assert new.out not in {own.out, first.out}
