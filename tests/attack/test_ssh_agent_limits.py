"""Attack: floods, stalls and sessions without an end on an ssh agent's connection."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from broker.authority.permit import Request
from broker.core import ssh_agent as wire
from broker.core.errors import RefusedError, UpstreamError
from broker.core.lease import Opening
from broker.core.limits import ssh_agent as limits
from broker.core.services import CALL, SSH_AGENT
from broker.core.ssh_agent import (
    AgentKey,
    BindSession,
    KeyDone,
    KeyList,
    KeyRefused,
    ListKeys,
    SignContent,
)
from broker.ipc import transfer as messages
from broker.jail.worker.ssh_stream import SshAgentStream
from broker.viewer.calls.places import CallPlaces
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.ssh.ssh_keys import SshKeys, _Conversation, _next_request
from tests.kit.rulebook import WORK
from tests.kit.session import session

__all__ = ["session"]


class Willing:
    """An agent of a hostile sandbox, which takes each session with this signature."""

    async def ask(self, ask, warrant=b""):
        return KeyDone() if ask.signature == b"sig" else KeyRefused()


class Faking:
    """gpg-agent since GnuPG 2.3: it takes each session, whatever the signature."""

    async def ask(self, ask, warrant=b""):
        del ask
        return KeyDone()


async def test_an_agent_that_takes_any_signature_names_no_host():
    talk = _Conversation(None, None, Faking(), None, "vault", None)
    assert isinstance(await talk.answer(bind(1, forwarding=False)), KeyRefused)
    nothing = BindSession(b"h", b"s", b"", forwarding=False)
    assert isinstance(await talk.answer(nothing), KeyRefused)
    assert talk.hosts == {}


async def test_a_failure_of_a_far_agent_has_nothing_of_its_target(session):
    warrant = session.permit(SSH_AGENT, argument="+list", target="vault")

    @asynccontextmanager
    async def permit(_request):
        await trio.lowlevel.checkpoint()
        yield SimpleNamespace(
            target="vault",
            user=None,
            where="30.policy:1",
            warrant=warrant,
            renewed=lambda: warrant,
        )

    @asynccontextmanager
    async def far(*_):
        await trio.lowlevel.checkpoint()
        raise UpstreamError("/home/user/secret cannot be mounted")
        yield

    keys = SshKeys(SimpleNamespace(permit=permit), session, far, CallPlaces())
    opening, guest = Opening(WORK, CALL, 1, "vsock:3"), SimpleNamespace(lease=WORK)
    with pytest.raises(RefusedError) as caught:
        await keys.serve(GuestConnection(guest, opening), "vault")
    assert "secret" not in str(caught.value)


class Slow:
    """An agent that waits for a touch."""

    def __init__(self):
        self.asked = trio.Event()

    async def ask(self, ask, warrant=b""):
        if isinstance(ask, ListKeys):
            return KeyList((AgentKey(b"key", "work@desk"),))
        self.asked.set()
        return await trio.sleep_forever()


class Cutting:
    """A decider that takes a permit back while the agent is asked."""

    def __init__(self, agent):
        self._agent = agent

    @asynccontextmanager
    async def permit(self, request):
        del request
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cut():
                    await self._agent.asked.wait()
                    scope.cancel()

                nursery.start_soon(cut)
                yield SimpleNamespace(target="vault", warrant=b"")
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            raise RefusedError("denied now")


async def test_an_agent_that_was_left_with_a_request_is_not_asked_again():
    """Its late answer, a login that was taken back, was passed on as the next one's."""
    agent = Slow()
    guest = SimpleNamespace(lease=WORK)
    request = Request(lease=WORK, service="vitrail.SshAgent", stream=1)
    talk = _Conversation(Cutting(agent), request, agent, guest, "vault", None)
    with trio.fail_after(30), pytest.raises(RefusedError, match="denied now"):
        await talk.answer(SignContent(b"key", 0, "git", b"hash", "sha512"))
    assert talk.left


def bind(number, *, forwarding):
    return BindSession(b"h%d" % number, b"s%d" % number, b"sig", forwarding)


@pytest.mark.parametrize("forwarding", [True, False])
async def test_sessions_of_a_connection_are_few(forwarding):
    talk = _Conversation(None, None, Willing(), None, "vault", None)
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
        keys = SshKeys(None, None, None, None)
        began = trio.current_time()
        for _ in range(limits.SSH_REQUESTS_BURST):
            await keys._paces.wait("work")
        assert trio.current_time() == began
        for _ in range(20):
            await keys._paces.wait("work")
        waited = trio.current_time() - began
        assert waited == pytest.approx(20 / limits.SSH_REQUESTS_PER_SECOND)
        # Another sandbox does not pay for it; who is quiet is forgotten.
        before = trio.current_time()
        await keys._paces.wait("other")
        assert trio.current_time() == before
        await trio.sleep(60)
        await keys._paces.wait("third")
        assert set(keys._paces._paces) == {"third"}

    trio.run(flood, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("bound", [True, False])
def test_a_silent_connection_without_a_session_ends(bound):
    """Each is a process with the user's rights."""
    talk = _Conversation(None, None, None, None, "vault", None)
    if bound:
        talk.hosts[b"session"] = b"host"

    async def wait():
        silent = SimpleNamespace(said=trio.sleep_forever)
        with trio.move_on_after(86_400):
            await _next_request(talk, silent)
        return trio.current_time()

    async def main():
        began = trio.current_time()
        if bound:
            return await wait() - began
        with pytest.raises(ShareableError, match="silent for too long"):
            await wait()
        return trio.current_time() - began

    seconds = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert seconds == (86_400 if bound else limits.SSH_UNBOUND_SECONDS)


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
        return await served.run(), trio.current_time() - began

    with theirs, ours:
        ours.setblocking(False)
        return trio.run(main, clock=MockClock(autojump_threshold=0.05))


def test_a_message_that_stalls_is_given_up():
    theirs, ours = socket.socketpair()
    theirs.send(wire.string(bytes([11]) * 8)[:6])
    reason, seconds = served(theirs, ours)
    assert "did not finish a message in time" in reason
    assert seconds == pytest.approx(limits.SSH_SILENT_SECONDS, abs=1)


def test_an_agent_that_does_not_read_is_given_up():
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            ours.send(bytes(4096))
    order = messages.StreamTell(1, ListKeys())
    reason, seconds = served(theirs, ours, asks=False, orders=[order])
    assert "does not read" in reason
    assert seconds == pytest.approx(limits.SSH_SILENT_SECONDS, abs=1)
