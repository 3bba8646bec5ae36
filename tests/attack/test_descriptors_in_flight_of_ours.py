"""A sandbox keeps more descriptors in flight than ours may send, for a moment.

The kernel counts them for the person (unix(7), ETOOMANYREFS).  What fails then is one
request; none of our processes and no channel ends, for any other sandbox.
"""

from __future__ import annotations

import errno
import socket
import threading
from pathlib import Path

import pytest
import trio

from broker.authority.helper_starter import HelperStarter
from broker.core.errors import UpstreamError
from broker.helpers import starter
from broker.ipc import fdpass
from broker.ipc import fork_server as messages
from broker.ipc.starter import HelperProgram
from broker.programs import keeper
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
    server = threading.Thread(target=starter.HelperServer(theirs).run)
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
