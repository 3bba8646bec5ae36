"""A sandbox that the rules deny the security key, and one that uses up its PIN's tries."""

from __future__ import annotations

import pytest
import trio

from broker.jail.security_key.ctaphid import CtapHidCommand
from tests.kit.eventually import eventually
from tests.kit.rulebook import VAULT, WORK, no, rulebook, yes
from tests.kit.usb.key_process import connected
from tests.kit.usb.token import Token, pin

_ALL = "vitrail.SecurityKey * @anyvm @adminvm ask host=bank.example\n"
_DENY = "vitrail.SecurityKey * work @adminvm deny\n"


async def _reaches(b, lease=WORK):
    """Whether a program of the sandbox gets an answer of the key."""
    with trio.fail_after(30):
        try:
            async with connected(b, lease=lease) as (program, token):
                return await program.begin() is not None and bool(token.seen)
        except* trio.BrokenResourceError:
            pass
    return False


async def test_sandbox_that_an_earlier_rule_denies_does_not_reach_the_key():
    """The first rule that matches decides, for the connection as for a use."""
    async with rulebook(_DENY + _ALL) as b:
        assert not await _reaches(b)
        assert await _reaches(b, VAULT)
        denied, allowed = b.events("decision")
        assert denied["verdict"] == "deny"
        assert denied["rule"].endswith("50-test.policy:1")
        assert allowed["verdict"] == "allow"
        assert allowed["rule"].endswith("50-test.policy:2")
        assert b.person.asked == []


@pytest.mark.parametrize(
    ("rules", "reaches"),
    [
        ("vitrail.SecurityKey * work @adminvm deny host=bank.example\n" + _ALL, False),
        ("vitrail.SecurityKey * work @adminvm deny host=x.example\n" + _ALL, True),
        ("vitrail.SecurityKey * work @adminvm deny host=*.example\n" + _ALL, False),
        ("vitrail.SecurityKey * work vault ask\n", False),
        ("vitrail.SecurityKey * work @adminvm ask mode=observe\n", False),
        ("* * work @adminvm ask\n", True),
        ("vitrail.SecurityKey * work @adminvm allow host=*.corp.example\n", True),
        ("vitrail.SecurityKey * work @adminvm ask rate=1/h\n" * 2, True),
    ],
)
async def test_connection_is_what_the_rules_say(rules, reaches):
    async with rulebook(rules) as b:
        for _ in range(2):
            assert await _reaches(b) == reaches


async def _enter(program, channel, word):
    await program.send(channel, CtapHidCommand.CBOR, pin(word))
    return (await program.receive()).payload[0]


async def test_sandbox_does_not_use_up_the_tries_of_the_pin():
    """Nor by connecting again: the wrong ones are counted for its record."""
    token, answers = Token(), []
    async with rulebook(_ALL) as b:
        b.person.says = no
        for _ in range(4):
            async with connected(b, token=token) as (program, _):
                with trio.fail_after(30):
                    channel = await program.begin()
                    answers += [await _enter(program, channel, b"x") for _ in range(2)]
        assert token.tries == 6
        assert answers == [0x31] * 2 + [0x27] * 6
        (asked,) = {(one.words, one.details) for one in b.person.asked}
        words = "to use the PIN of your security key after wrong attempts"
        assert asked == (words, (("wrong PINs, it says", "2"),))


async def test_wrong_pins_are_forgotten_with_the_right_one_only():
    """A yes of the person is for one more."""
    token = Token()
    async with rulebook(_ALL) as b:
        async with connected(b, token=token) as (program, _):
            with trio.fail_after(30):
                channel = await program.begin()
                b.person.says = no
                words = [b"x", b"right", b"x", b"x"]
                assert [await _enter(program, channel, word) for word in words] == [
                    *(0x31, 0, 0x31, 0x31)
                ]
                b.person.says = yes()
                assert await _enter(program, channel, b"x") == 0x31
                b.person.says = no
                assert await _enter(program, channel, b"right") == 0x27
        assert len(b.person.asked) == 2


async def test_rule_that_allows_lets_no_sandbox_guess():
    async with rulebook(_ALL.replace("ask", "allow")) as b:
        b.person.says = no
        async with connected(b) as (program, token):
            with trio.fail_after(30):
                channel = await program.begin()
                for _ in range(5):
                    await _enter(program, channel, b"x")
        assert token.tries == 6
        assert len(b.person.asked) == 3


async def test_try_whose_answer_the_process_does_not_report_is_a_wrong_one():
    """A program that hangs up at once would have a try for each connection."""
    token = Token()
    token.silent = True
    async with rulebook(_ALL) as b:
        b.person.says = no
        for _ in range(3):
            async with connected(b, token=token) as (program, _):
                with trio.fail_after(30):
                    channel = await program.begin()
                    await program.send(channel, CtapHidCommand.CBOR, pin(b"x"))
                    await eventually(lambda: b.person.asked or len(token.seen) > 1)
            token.seen.clear()
        assert len(b.person.asked) == 1
