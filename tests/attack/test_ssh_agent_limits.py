"""Attack: floods, stalls and sessions without an end on an ssh agent's connection."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from broker.core import ssh_agent as wire
from broker.core.errors import PeerError
from broker.core.limits import ssh_agent as limits
from broker.core.ssh_agent import BindSession, KeyDone, KeyRefused, ListKeys
from broker.ipc import transfer as messages
from broker.jail.worker.agent_stream import SshAgentStream
from broker.viewer.calls.ssh_keys import SshKeys, _Conversation


class Willing:
    """An agent of a hostile sandbox, which takes each session."""

    async def ask(self, ask):
        del ask
        return KeyDone()


def bind(number, *, forwarding):
    return BindSession(b"h%d" % number, b"s%d" % number, b"sig", forwarding)


@pytest.mark.parametrize("forwarding", [True, False])
async def test_sessions_of_a_connection_are_few(forwarding):
    talk = _Conversation(None, None, Willing(), None, "vault")
    for number in range(limits.SSH_SESSIONS):
        assert isinstance(
            await talk.answer(bind(number, forwarding=forwarding)), KeyDone
        )
    for more in (True, False):
        answer = await talk.answer(bind(99, forwarding=more))
        assert isinstance(answer, KeyRefused)
    assert len(talk.hosts) + len(talk.way) == limits.SSH_SESSIONS


def test_requests_of_all_connections_of_a_sandbox_are_paced():
    async def flood():
        keys = SshKeys(None, None)
        waited = [
            keys._pace("work").take(trio.current_time())
            for _ in range(limits.SSH_REQUESTS_BURST + 20)
        ]
        assert waited[limits.SSH_REQUESTS_BURST - 1] == 0
        assert waited[-1] == pytest.approx(20 / limits.SSH_REQUESTS_PER_SECOND)
        # Another sandbox does not pay for it; who is quiet is forgotten.
        assert keys._pace("other").take(trio.current_time()) == 0
        await trio.sleep(60)
        keys._pace("third")
        assert set(keys._paces) == {"third"}

    trio.run(flood, clock=MockClock(autojump_threshold=0))


def served(theirs, ours, *, asks=True, orders=()):
    """Run one connection by a clock that jumps; returns why it ended."""

    async def main():
        stream = trio.socket.from_stdlib_socket(ours)
        put, get = trio.open_memory_channel(8)
        for order in orders:
            await put.send(order)

        async def say(message):
            raise AssertionError(message)

        served = SshAgentStream(
            1, stream, say, get.receive, asks=asks, moved=lambda *_: None
        )
        began = trio.current_time()
        with pytest.raises(PeerError) as found:
            await served.run()
        return str(found.value), trio.current_time() - began

    with theirs, ours:
        ours.setblocking(False)
        return trio.run(main, clock=MockClock(autojump_threshold=0.05))


def test_a_message_that_stalls_is_given_up():
    theirs, ours = socket.socketpair()
    theirs.send(wire.string(bytes([11]) * 8)[:6])
    reason, seconds = served(theirs, ours)
    assert "does not end" in reason
    assert seconds == pytest.approx(limits.SSH_SILENT_SECONDS, abs=1)


def test_an_agent_that_does_not_read_is_given_up():
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            ours.send(bytes(4096))
    order = messages.SshToAgent(1, ListKeys())
    reason, seconds = served(theirs, ours, asks=False, orders=[order])
    assert "does not read" in reason
    assert seconds == pytest.approx(limits.SSH_SILENT_SECONDS, abs=1)
