"""A viewer that was taken over uses the user's security key.

It is the guest as well, at the other end of the connection that it has passed on, and
answers the questions about each use.  The session child that opened the key passes on a
yes only with the authority's permit for that use.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core.services import SECURITY_KEY, SSH_AGENT
from broker.ipc.session.bus_orders import HoldPermit
from broker.ipc.session.key_uses import KeyAnswer, decode_use, encode_key_answer
from broker.ipc.session.media_orders import OpenSecurityKey
from broker.jail.security_key.ctaphid import CtapHidCommand
from tests.kit.session import Signed
from tests.kit.usb.key_process import Program, starter_with_key
from tests.kit.usb.token import Token, assertion, pin, serve_token

GET_ASSERTION = (CtapHidCommand.CBOR, b"\x02")
GOOD = {"service": SECURITY_KEY, "way": "sign in", "host": "bank.example"}
FORGED = {
    "none": None,
    "ahead of uses": {"ahead": True},
    "another party": {"host": "evil.example"},
    "no party": {"host": None},
    "a hash": {"host": None, "about": "ab" * 32},
    "a look": {"way": "look"},
    "no way": {"way": ""},
    "a PIN": {"way": "pin", "ahead": True},
    "another sandbox": {"sandbox": "mail-1"},
    "another target": {"target": "work"},
    "another service": {"service": SSH_AGENT},
    "old": {"at": time.monotonic() - 3600},
}


class Viewer:
    """It has the guest's end, and the socket of the questions."""

    def __init__(self, session, sock, program, token):
        self.session, self.sock, self.program, self.token = (
            session,
            sock,
            program,
            token,
        )
        self.channel = 0

    async def asked(self):
        """The next question of the key's process."""
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            use = decode_use(self.sock.recv(1024))
            if use.ask:
                return use

    async def sign_in(self, host="bank.example"):
        payload = assertion(host)
        await self.program.send(self.channel, CtapHidCommand.CBOR, payload)
        return (await self.asked()).ask

    def answer(self, number, *, allow=True, warrant=b""):
        self.sock.send(encode_key_answer(KeyAnswer(number, allow, warrant)))

    def permit(self, **fields):
        return self.session.permit(**{**GOOD, **fields})

    async def heard(self):
        with trio.fail_after(30):
            return (await self.program.receive()).payload[:1]

    @property
    def signed(self):
        return self.token.seen.count(GET_ASSERTION)


@asynccontextmanager
async def session_with_token():
    token = Token()
    hidraw, key = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    hidraw.settimeout(0)
    with hidraw, key, starter_with_key(key) as session:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_token, hidraw, token)
            yield session, token
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def opened(session, token):
    """A connection to the key, which ends with the block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    guest, conn = socket.socketpair()
    ours.settimeout(0)
    with ours, theirs, conn:
        order = Signed(session.permit(SECURITY_KEY, ahead=True), OpenSecurityKey())
        fds = [conn.fileno(), theirs.fileno()]
        async with session.carrying_out(order, fds) as begun:
            theirs.close()
            conn.close()
            made = Viewer(session, ours, Program(guest), token)
            made.begun = begun
            async with made.program.stream:
                made.channel = await made.program.begin()
                yield made
            ours.close()
            with trio.fail_after(30):
                await begun.process.wait()


@asynccontextmanager
async def viewer():
    async with (
        session_with_token() as (session, token),
        opened(session, token) as made,
    ):
        yield made


@pytest.mark.parametrize("fields", FORGED.values(), ids=FORGED)
async def test_a_yes_without_the_permit_for_this_use(fields):
    async with viewer() as v:
        number = await v.sign_in()
        warrant = b"" if fields is None else v.permit(**fields)
        v.answer(number, warrant=warrant)
        assert await v.heard() == b"\x27"
        assert v.signed == 0
        # And the next one is served.
        v.answer(await v.sign_in(), warrant=v.permit())
        assert await v.heard() == b"\0"
        assert v.signed == 1


async def test_a_changed_warrant_is_none():
    async with viewer() as v:
        v.answer(await v.sign_in(), warrant=v.permit()[:-1] + b" ")
        assert await v.heard() == b"\x27"
        assert v.signed == 0


async def test_a_permit_is_for_one_use():
    async with viewer() as v:
        earlier, warrant = v.permit(), v.permit()
        v.answer(await v.sign_in(), warrant=warrant)
        assert await v.heard() == b"\0"
        for again in (warrant, earlier):
            v.answer(await v.sign_in(), warrant=again)
            assert await v.heard() == b"\x27"
        assert v.signed == 1


async def test_a_permit_is_for_one_use_of_all_connections_renewed_or_not():
    """The kind of an order that came later is not what the permit is used for."""
    async with session_with_token() as (session, token):
        warrant = session.permit(**GOOD)
        async with opened(session, token) as v:
            await v.begun.more(
                Signed(
                    session.permit(SECURITY_KEY, ahead=True, renewed=True), HoldPermit()
                )
            )
            v.answer(await v.sign_in(), warrant=warrant)
            assert await v.heard() == b"\0"
        async with opened(session, token) as v:
            v.answer(await v.sign_in(), warrant=warrant)
            assert await v.heard() == b"\x27"
            assert v.signed == 1


async def test_a_yes_is_for_the_question_that_was_put():
    async with viewer() as v:
        number = await v.sign_in("evil.example")
        v.answer(number + 1, warrant=v.permit())
        v.answer(number - 1, warrant=v.permit())
        v.answer(number, warrant=v.permit())
        assert await v.heard() == b"\x27"
        assert v.signed == 0


async def test_a_pin_is_entered_by_its_own_permit():
    async with viewer() as v:
        for fields, answer in (
            ({}, b"\x27"),
            ({"way": "pin", "ahead": True, "sandbox": "mail-1"}, b"\x27"),
            ({"way": "pin", "ahead": True, "host": "a-name.invalid"}, b"\x31"),
        ):
            await v.program.send(v.channel, CtapHidCommand.CBOR, pin(b"x"))
            v.answer((await v.asked()).ask, warrant=v.permit(**fields))
            assert await v.heard() == answer
        assert v.token.tries == 7


async def test_what_is_no_answer_ends_the_connection():
    async with viewer() as v:
        await v.sign_in()
        v.sock.send(json.dumps({"allow": True}).encode())
        with trio.fail_after(30):
            assert await v.program.receive() is None
        assert v.signed == 0
