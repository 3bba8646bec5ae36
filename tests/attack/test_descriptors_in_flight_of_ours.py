"""A sandbox keeps more descriptors in flight than ours may send, for a moment.

The kernel counts them for the person (unix(7), ETOOMANYREFS).  What fails then is one
request; none of our processes and no channel ends, for any other sandbox.
"""

from __future__ import annotations

import errno
import select
import socket
import threading
from pathlib import Path

import pytest
import trio

from broker.authority.helper_starter import HelperStarter
from broker.core.errors import PeerError, UpstreamError
from broker.helpers import starter
from broker.helpers.process import fork_server
from broker.ipc import keeper as messages
from broker.ipc.starter import HelperProgram
from broker.programs import keeper
from broker.wire import fdpass
from tests.kit.wayland.compositor import short_directory


@pytest.fixture
def flood(monkeypatch):
    """How many of the next messages with descriptors fail."""
    left, send = [0], fdpass.send

    def may_fail(sock, data, fds=()):
        if fds and left[0]:
            left[0] -= 1
            raise OSError(errno.ETOOMANYREFS, "Too many references: cannot splice")
        return send(sock, data, fds)

    monkeypatch.setattr(fdpass, "send", may_fail)
    return left


@pytest.mark.parametrize("sender", ["authority", "starter"])
async def test_the_person_is_asked_again_when_it_is_over(monkeypatch, flood, sender):
    monkeypatch.setattr(starter.popen, "our_program", lambda *_: ["sleep", "1000"])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = threading.Thread(target=starter.HelperServer().run, args=[theirs])
    with ours, theirs:
        server.start()
        try:
            asks = HelperStarter(ours)
            fds = [theirs.fileno()] if sender == "authority" else []
            flood[0] = 1
            with pytest.raises(UpstreamError):
                await asks.start(HelperProgram.PROMPT, fds)
            helper = await asks.start(HelperProgram.PROMPT, fds)
            assert await helper.stop() == -15
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            await trio.to_thread.run_sync(server.join)


def test_a_window_that_cannot_be_had_ends_no_other(flood):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    theirs.settimeout(30)
    held = {}

    class Plain:
        def connect(self):
            return keeper.connect_compositor(self.path)

        def descriptors_left(self):
            return 1.0

    compositor = Plain()
    with short_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "wayland-1"))
        listener.listen(8)
        compositor.path = Path(directory / "wayland-1")
        with ours, theirs:
            flood[0] = 1
            for answer in (messages.REFUSED, messages.CONNECTED):
                theirs.send(messages.CONNECT)
                assert keeper._answer(compositor, ours, held)
                got = fdpass.receive(theirs, 2000, 1)
                assert got.data[:1] == answer
                fdpass.close_all(got.fds)
        assert len(held) == 1
        for sock in held.values():
            sock.close()


_poll = select.poll


class ShortPoll:
    """poll(2), which has no memory at first."""

    def __init__(self):
        self._poll, self._short = _poll(), True

    def __getattr__(self, name):
        return getattr(self._poll, name)

    def poll(self):
        if self._short:
            self._short = False
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return self._poll.poll()


def short(monkeypatch, where, call):
    """The next call of authority or starter fails: no memory, or no descriptor."""
    real, due = getattr(fdpass, call), [True]
    authority = threading.get_ident()

    def may_fail(sock, *words):
        mine = (threading.get_ident() == authority) == (where == "authority")
        if not mine or not due[0]:
            return real(sock, *words)
        if call == "send":
            due[0] = False
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        got = real(sock, *words)
        due[0] = False
        fdpass.close_all(got.fds)
        raise PeerError("the peer sent too many, or too many are open")

    monkeypatch.setattr(fdpass, call, may_fail)


@pytest.mark.parametrize("call", ["send", "receive"])
@pytest.mark.parametrize("where", ["authority", "starter"])
async def test_the_starter_outlives_a_moment_without_room(monkeypatch, where, call):
    """Else the person is asked nothing, and the log not shipped, until a restart."""
    monkeypatch.setattr(starter.popen, "our_program", lambda *_: ["sleep", "1000"])
    monkeypatch.setattr(fork_server.select, "poll", ShortPoll)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    served = starter.HelperServer()
    server = threading.Thread(target=served.run, args=[theirs])
    with ours, theirs, trio.fail_after(60):
        asks = HelperStarter(ours)
        theirs.recv(1 << 16)  # the key of warrants, which has no answer
        short(monkeypatch, where, call)
        server.start()
        try:
            if call == "receive":
                with pytest.raises(UpstreamError, match="too many"):
                    await asks.start(HelperProgram.PROMPT)
            for _ in range(2):  # the next request has its own answer
                helper = await asks.start(HelperProgram.PROMPT)
                assert await helper.stop() == -15
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            await trio.to_thread.run_sync(server.join)
            served._loop.kill_children()  # nobody has their pidfds
