"""A viewer that was taken over repeats what was permitted once."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.services import AUDIO, FILE_COPY
from broker.ipc.control.types.opening import OpenRequest
from broker.ipc.session import file_orders as m
from broker.ipc.session.bus_orders import HoldPermit
from broker.ipc.session.media_orders import ConnectSound
from broker.ipc.session.permit_warrant import PermitWarrant
from broker.ipc.session.warrant import sign
from broker.session import read_warrant, used_warrants
from broker.session.read_warrant import SECONDS, TICKET_SECONDS, FileTicket
from broker.session.used_warrants import UsedWarrants
from broker.session.warrant_check import WarrantCheck
from broker.viewer.exchange.pipes import pipe
from broker.viewer.transfer.own import Own
from broker.wire.row import NeededPermit
from tests.attack.test_session_orders_files import _home, desktop, order_with
from tests.broker.session.test_session_orders import sound
from tests.kit.session import Signed, call_bytes

__all__ = ["_home", "sound"]
USED = "was already used"


async def test_a_permit_opens_the_microphone_once(sound):
    server, session = sound
    warrant = session.permit(AUDIO)
    (fd,) = (await session.carry_out(Signed(warrant, ConnectSound()))).fds
    os.close(fd)
    server.accept()[0].close()
    with pytest.raises(RefusedError, match=USED):
        await session.carry_out(Signed(warrant, ConnectSound()))
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()


async def test_sound_ends_with_its_permit_whoever_has_it(sound):
    """A viewer that was taken over ends the process, and keeps the microphone."""
    server, session = sound
    warrant = session.permit(AUDIO, at=time.monotonic() - SECONDS + 3)
    async with session.carrying_out(Signed(warrant, ConnectSound())) as begun:
        begun.process.kill()
        await begun.process.wait()
        with socket.socket(fileno=begun.fds[0]) as ours, server.accept()[0] as conn:
            ours.sendall(b"-")
            assert conn.recv(1) == b"-"
            conn.settimeout(30)
            assert conn.recv(1) == b"", "the permit has ended"
            with pytest.raises(BrokenPipeError):
                ours.send(b"-")


async def test_sound_ends_with_its_permit_though_no_answer_is_read(sound):
    """A viewer that was taken over fills the channel, so that a blocking send waits."""
    server, session = sound
    at = time.monotonic() - SECONDS + 6
    warrant = session.permit(AUDIO, at=at)
    renewal = session.permit(AUDIO, at=at, renewed=True)
    async with session.carrying_out(Signed(warrant, ConnectSound())) as begun:
        with socket.socket(fileno=begun.fds[0]) as ours, server.accept()[0] as conn:
            # Its far end may have ended by then, which is what is wanted.
            with suppress(OSError), trio.move_on_after(2):
                for number in itertools.count(2):
                    data = call_bytes(number, "HoldPermit", HoldPermit(), renewal)
                    await begun.connection.channel.send(data)
            ours.settimeout(20)
            assert ours.recv(1) == b"", "the permit has ended"
            conn.settimeout(20)
            assert conn.recv(1) == b""


async def test_several_at_once_use_a_permit_once(sound):
    """Children of all orders know it at the same time."""
    server, session = sound
    warrant, got, refused = session.permit(AUDIO), [], []

    async def order():
        try:
            got.extend((await session.carry_out(Signed(warrant, ConnectSound()))).fds)
        except RefusedError as error:
            refused.append(error.message)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(order)
    assert len(got) == 1
    assert len(refused) == 19
    os.close(got[0])
    server.accept()[0].close()


async def test_files_are_stored_once_by_a_permit(home):
    with desktop(home) as session:
        warrant = session.permit(FILE_COPY)
        # Nothing comes: the first one is carried out, and fails.
        for kind, match in ((UpstreamError, None), (RefusedError, USED)):
            with pipe() as (read, write):
                write.close()
                order = session.carrying_out(
                    Signed(warrant, m.StoreFiles()), [read.fileno()]
                )
                with pytest.raises(kind, match=match):
                    async with order as begun:
                        await begun.outcome()


async def test_a_call_names_files_once(home):
    with desktop(home) as session:
        warrant = session.call("Open", OpenRequest(copy=[str(home / "id")]))
        await Own(session).named(warrant, ())
        with pytest.raises(RefusedError, match=USED):
            await Own(session).named(warrant, ())


async def _sent(session, ticket):
    """What is sent by a ticket."""
    with pipe() as (read, write):
        try:
            await order_with(session, m.SendFiles(), ticket, write.fileno())
        finally:
            write.close()
        return os.read(read.fileno(), 4096)


async def test_files_that_were_named_once_are_sent_once(home):
    """Also what the user has written into them since."""
    with desktop(home) as session:
        path = (os.fsencode(home / "id"),)
        ticket = sign(session.key, FileTicket(time.monotonic(), "send", path))
        assert await _sent(session, ticket)
        with pytest.raises(RefusedError, match=USED):
            await _sent(session, ticket)


async def test_files_that_were_named_long_ago_are_not_sent(home):
    with desktop(home) as session:
        path = (os.fsencode(home / "id"),)
        for ago, error in ((TICKET_SECONDS - 60, ""), (TICKET_SECONDS + 1, "neither")):
            at = time.monotonic() - ago
            ticket = sign(session.key, FileTicket(at, "send", path))
            with ExitStack() as stack:
                if error:
                    stack.enter_context(pytest.raises(RefusedError, match=error))
                assert await _sent(session, ticket)


def _take(used, signed, purpose, now, until):
    """Why a use at this time is refused; empty: it is noted."""
    try:
        used.take(signed, purpose, until, clock=lambda: now)
    except RefusedError as error:
        return error.message
    return ""


def test_uses_are_noted_until_they_have_expired():
    used = UsedWarrants()
    assert not _take(used, b"a", "x", 10.0, 70.0)
    assert USED in _take(used, b"a", "x", 70.0, 70.0)
    assert not _take(used, b"b", "x", 70.0, 130.0)
    assert not _take(used, b"a", "y", 70.0, 130.0)


def test_a_use_is_not_noted_again_once_it_may_be_forgotten():
    used = UsedWarrants()
    assert not _take(used, b"a", "x", 10.0, 70.0)
    for now in (70.0, 70.0000001, 70.1, 1000.0):
        assert _take(used, b"a", "x", now, 70.0), now


@pytest.mark.parametrize("late", [0.0, 0.001, 30.0])
def test_a_child_that_is_preempted_between_age_and_use_has_no_second_one(
    late, monkeypatch
):
    """It finds a warrant still good, and its use already forgotten."""
    key, used = b"k" * 32, UsedWarrants()
    at = time.monotonic() - SECONDS - late
    permit = PermitWarrant(at, "w", "w", "dom0", (), "", service=AUDIO, argument="+")
    signed = sign(key, permit)
    monkeypatch.setattr(
        read_warrant, "time", SimpleNamespace(monotonic=lambda: at + 59)
    )
    uses = []
    for _child in range(2):
        with suppress(RefusedError):
            uses.append(
                WarrantCheck(key, used).permit(signed, NeededPermit(frozenset({AUDIO})))
            )
    assert uses == []


def test_a_table_that_is_full_permits_nothing(monkeypatch):
    monkeypatch.setattr(used_warrants, "_PLACES", 8)
    used = UsedWarrants()
    taken = [_take(used, b"%d" % number, "x", 10.0, 70.0) for number in range(9)]
    assert taken[:8] == [""] * 8
    assert taken[8]
    assert _take(used, b"0", "x", 10.0, 70.0)
    assert not _take(used, b"9", "x", 71.0, 131.0)


def test_a_child_that_was_killed_holds_up_no_other():
    """The viewer may end its children at any time."""
    used = UsedWarrants()
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        with used._locked():
            theirs.send(b"x")
            signal.pause()
        os._exit(0)
    with ours, theirs:
        assert ours.recv(1) == b"x"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert not _take(used, b"a", "x", 10.0, 70.0)
