"""A viewer that was taken over keeps the process that ends what a permit has begun busy."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from contextlib import suppress

import pytest
import trio

from broker.core.errors import RefusedError
from broker.core.services import AUDIO, CALL, SECURITY_KEY
from broker.ipc.session.bus_orders import HoldPermit
from broker.ipc.session.media_orders import ConnectSound, OpenSecurityKey
from broker.ipc.session.service_orders import ServeNow, StartService
from broker.session import order_exchange
from broker.session.read_warrant import SECONDS
from broker.viewer.orders import session_orders
from broker.wire import packets
from tests.attack.test_session_orders_services import services
from tests.broker.session.test_session_orders import sound
from tests.kit.session import Signed, call_bytes, starter_of_orders

__all__ = ["services", "sound"]


def _fill(sock):
    with suppress(BlockingIOError):
        while True:
            sock.send(b"-" * 1024, socket.MSG_DONTWAIT)
    with suppress(BlockingIOError):
        while True:
            sock.send(b"-", socket.MSG_DONTWAIT)


@pytest.fixture
def kept(monkeypatch):
    """The children's ends of channels, which the viewer has kept."""
    ends = []

    def pair():
        ours, theirs = packets.pair()
        ends.append(theirs.dup())
        return ours, theirs

    monkeypatch.setattr(session_orders, "pair", pair)
    yield ends
    for end in ends:
        end.close()


async def _blocking(end):
    """Have the child's end block, once the child has chosen that it does not."""
    with trio.fail_after(5):
        while not (flags := fcntl.fcntl(end, fcntl.F_GETFL)) & os.O_NONBLOCK:
            await trio.sleep(0.01)
    fcntl.fcntl(end, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)


async def test_sound_ends_with_its_permit_though_its_channel_blocks(sound, kept):
    """Whether a socket blocks is the same for all that have it."""
    server, session = sound
    at = time.monotonic() - SECONDS + 6
    warrant = session.permit(AUDIO, at=at)
    fresh = session.permit(AUDIO, at=at, renewed=True)
    renewal = call_bytes(2, "HoldPermit", HoldPermit(), fresh)
    async with session.carrying_out(Signed(warrant, ConnectSound())) as begun:
        with socket.socket(fileno=begun.fds[0]) as ours, server.accept()[0] as conn:
            with suppress(TimeoutError, trio.TooSlowError):
                await _blocking(kept[0])
            _fill(kept[0])
            with suppress(OSError):
                await begun.connection.channel.send(renewal)
            conn.settimeout(12)
            assert conn.recv(1) == b"", "the permit has ended"
            ours.settimeout(1)
            assert ours.recv(1) == b""


async def test_a_group_that_is_ended_leaves_the_end_of_a_permit(sound):
    """The viewer has the pidfd of the process that leads the group of the starter."""
    server, session = sound
    at = time.monotonic() - SECONDS + 3
    warrant = session.permit(AUDIO, at=at)
    async with session.carrying_out(Signed(warrant, ConnectSound())) as begun:
        with socket.socket(fileno=begun.fds[0]) as ours, server.accept()[0] as conn:
            os.killpg(session.starter.process.pid, signal.SIGTERM)
            with trio.fail_after(5):
                await begun.process.wait()
            conn.settimeout(12)
            assert conn.recv(1) == b"", "the permit has ended"
            assert ours.recv(1) == b""
            assert time.monotonic() >= at + SECONDS


def test_who_ends_an_orders_program_is_in_a_group_of_its_own():
    """A jail of which all are killed while it is being built leaves a process."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            order_exchange._leave_to_child(
                lambda *_: None
            )  # as its child, whose code is passed on
            code = 7 if os.getpgrp() == os.getsid(0) == os.getpid() else 8
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


_KEY = """
import sys
from broker.session import read_warrant
read_warrant.SECONDS = 3.0
from broker.session.security_keys import key_device
key_device.open_key = lambda: key_device.os.open("/dev/null", 0)
def asking(_module, _tool, _guest, _key, broker, _nonce):
    code = f"import socket, time; s = socket.socket(fileno={broker}); "
    code += "s.send(b'{\\"ask\\": 1, \\"what\\": \\"sign in\\"}'); time.sleep(600)"
    return [sys.executable, "-c", code]
key_device.our_program = asking
"""


async def test_a_security_key_ends_though_no_question_of_its_is_read():
    guest, far = socket.socketpair()
    ours, questions = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with guest, far, ours, questions, starter_of_orders(prepare=_KEY) as session:
        _fill(questions)
        fds = [far.fileno(), questions.fileno()]
        order = Signed(session.permit(SECURITY_KEY), OpenSecurityKey())
        async with session.carrying_out(order, fds) as begun:
            far.close()
            with trio.fail_after(20):
                await begun.process.wait()
            assert guest.recv(1) == b""


async def test_no_service_starts_after_its_permit(services):
    """The child has checked the permit before it is told to start the service."""
    at = time.monotonic() - SECONDS + 3
    warrant = services.permit(CALL, argument="+echo", sandbox="work", at=at)
    async with services.carrying_out(
        Signed(warrant, StartService("echo", ""))
    ) as begun:
        assert begun.value.concurrent == 2
        await trio.sleep(at + SECONDS + 0.5 - time.monotonic())
        with pytest.raises(RefusedError, match="expired"):
            await begun.more(ServeNow())
