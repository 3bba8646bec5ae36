"""The process between a guest and a security key, with a software token."""

from __future__ import annotations

import os
import socket

import pytest
import trio

from broker.core.errors import RefusedError
from broker.core.lease import Opening
from broker.core.services import SECURITY_KEY
from broker.jail.security_key import cbor
from broker.jail.security_key.ctaphid import CtapHidCommand
from broker.session.security_keys.key_device import find_keys, open_key
from broker.viewer.security_keys import security_keys
from broker.viewer.security_keys.shared_key import SharedKey
from tests.kit.eventually import eventually
from tests.kit.rulebook import WORK, no, rulebook, yes
from tests.kit.usb.key_process import connected
from tests.kit.usb.token import assertion

_RULE = "vitrail.SecurityKey * work @adminvm ask host=bank.example\n"


async def test_use_of_the_key_is_asked_about_and_signed():
    async with rulebook(_RULE) as b, connected(b) as (program, token):
        b.person.says = yes()
        with trio.fail_after(30):
            channel = await program.begin()
            await program.send(channel, CtapHidCommand.CBOR, assertion("bank.example"))
            answer = await program.receive()
        assert set(cbor.decode(answer.payload[1:])) == {2, 3}
        (question,) = b.person.asked
        assert question.words == "to sign in to bank.example with your security key"
        assert question.sandbox == "work"
        assert (CtapHidCommand.CBOR, b"\x02") in token.seen


@pytest.mark.parametrize("host", ["evil.example", "bank.example.evil.example"])
async def test_other_relying_parties_are_refused_unasked(host):
    async with rulebook(_RULE) as b, connected(b) as (program, token):
        with trio.fail_after(30):
            channel = await program.begin()
            await program.send(channel, CtapHidCommand.CBOR, assertion(host))
            answer = await program.receive()
        assert answer.payload == b"\x27"
        assert b.person.asked == []
        assert (CtapHidCommand.CBOR, b"\x02") not in token.seen
        assert b.events("decision")[-1]["verdict"] == "deny"


async def test_no_of_the_person_reaches_the_guest():
    async with rulebook(_RULE) as b, connected(b) as (program, token):
        b.person.says = no
        with trio.fail_after(30):
            channel = await program.begin()
            await program.send(channel, CtapHidCommand.CBOR, assertion("bank.example"))
            answer = await program.receive()
        assert answer.payload == b"\x27"
        assert (CtapHidCommand.CBOR, b"\x02") not in token.seen


async def test_garbage_of_a_guest_is_answered_or_ends_its_connection():
    async with rulebook(_RULE) as b, connected(b) as (program, token):
        with trio.fail_after(30):
            channel = await program.begin()
            await program.stream.send_all(os.urandom(64 * 50))
            await program.send(channel, CtapHidCommand.CBOR, b"\x04")
            while (answer := await program.receive()) is not None:
                if answer.channel == channel:
                    break
        assert all(
            c in {CtapHidCommand.INIT, CtapHidCommand.CBOR} for c, _ in token.seen
        )


class Reached:
    """A session that carries out nothing, and what it was to carry out."""

    def __init__(self):
        self.orders = []

    def carrying_out(self, order, fds=()):
        self.orders.append(order)
        raise RefusedError("no rule matches: but it was to be carried out")


async def test_sandbox_without_a_rule_does_not_reach_the_key():
    opening, session = Opening(WORK, SECURITY_KEY, 1, "cid 20"), Reached()
    with socket.socket() as conn:
        async with rulebook("vitrail.SecurityKey * vault @adminvm allow\n") as b:
            with pytest.raises(RefusedError, match="no rule matches"):
                await security_keys.carry(
                    opening,
                    conn,
                    b.decider,
                    SharedKey(),
                    session,
                    task_status=trio.TASK_STATUS_IGNORED,
                )
    assert session.orders == []


def test_keys_are_found_by_their_usage_page(tmp_path):
    for name, descriptor in (
        ("hidraw0", b"\x05\x01\x09\x06"),
        ("hidraw1", b"\x06\xd0\xf1\x09\x01"),
    ):
        folder = tmp_path / name / "device"
        folder.mkdir(parents=True)
        (folder / "report_descriptor").write_bytes(descriptor)
    assert [str(path) for path in find_keys(tmp_path)] == ["/dev/hidraw1"]
    with pytest.raises(RefusedError, match="no security key is plugged in"):
        open_key(tmp_path / "none")


_DENY = "vitrail.SecurityKey * work @adminvm deny\n"


async def test_rule_that_denies_stops_a_use_that_waits_for_the_touch():
    """The person has said yes, has not touched the key, and changes the rules."""
    async with rulebook(_RULE) as b, connected(b) as (program, token):
        b.person.says = yes()
        token.silent = True
        with trio.fail_after(60):
            channel = await program.begin()
            await program.send(channel, CtapHidCommand.CBOR, assertion("bank.example"))
            await eventually(lambda: (CtapHidCommand.CBOR, b"\x02") in token.seen)
            await b.change("50-test.policy", _DENY + _RULE)
            answer = await program.receive()
            assert answer.payload == b"\x27"
            await eventually(lambda: token.seen[-1][0] == CtapHidCommand.CANCEL)


async def test_key_without_a_rule_is_taken_back():
    """Else the sandbox could continue the tries of its PIN."""
    async with rulebook(_RULE) as b, connected(b) as (program, _):
        with trio.fail_after(30):
            await program.begin()
            await b.change("50-test.policy", _DENY)
            assert await program.receive() is None


async def test_use_after_use_is_asked_about():
    """The end of the one and the question of the next come together."""
    async with rulebook(_RULE) as b, connected(b) as (program, token):
        b.person.says = no
        with trio.fail_after(60):
            channel = await program.begin()
            for _ in range(5):
                await program.send(
                    channel, CtapHidCommand.CBOR, assertion("bank.example")
                )
                assert (await program.receive()).payload == b"\x27"
        assert len(b.person.asked) == 5
        assert (CtapHidCommand.CBOR, b"\x02") not in token.seen


@pytest.mark.parametrize(
    "said", [b"[" * 1000, b"{}x", b'{"ask": 0}', b'{"ask": 1, "host": 5}']
)
async def test_process_that_was_taken_over_ends_its_own_connection(said, capsys):
    """Its message is malformed: no question, and no exception beyond it."""
    opening = Opening(WORK, SECURITY_KEY, 1, "cid 20")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    with ours, theirs:
        async with rulebook(_RULE) as b:
            theirs.send(said)
            with trio.fail_after(30):
                await security_keys._Questions(
                    opening, b.decider, SharedKey(), ours, trio.sleep_forever
                ).serve()
        assert b.person.asked == []
    assert "work: the security key's process" in capsys.readouterr().err


async def test_process_that_ends_with_a_verdict_unread_is_an_end():
    """Its socket is reset then, which a guest can have by hanging up in time."""
    opening = Opening(WORK, SECURITY_KEY, 1, "cid 20")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    with ours:
        async with rulebook(_RULE) as b:
            ours.send(b"a verdict")
            theirs.close()
            with trio.fail_after(30):
                await security_keys._Questions(
                    opening, b.decider, SharedKey(), ours, trio.sleep_forever
                ).serve()
