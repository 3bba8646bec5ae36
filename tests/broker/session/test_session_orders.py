"""Orders with the user's rights: what is carried out, and what is not permitted."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack

import pytest
import trio

from broker.authority.helper_starter import HelperStarter
from broker.core.errors import RefusedError, UpstreamError
from broker.core.services import AUDIO, SSH_AGENT
from broker.ipc.session.media_orders import ConnectSound
from broker.wire import fdpass
from broker.wire.row import Empty
from tests.broker.helpers.process.test_fork_server import call_bytes
from tests.kit.lingering import given_slow_socket
from tests.kit.session import Signed, starter_of_orders


@pytest.fixture
def sound(tmp_path):
    """A sound server that listens, and the session that names it."""
    path = tmp_path / "sound"
    with (
        socket.socket(socket.AF_UNIX) as server,
        starter_of_orders(dict(os.environ, PULSE_SERVER=f"unix:{path}")) as session,
    ):
        server.bind(str(path))
        server.listen()
        server.settimeout(20)
        yield server, session


async def test_a_permitted_order_opens_what_it_names(sound):
    server, session = sound
    async with session.carrying_out(
        Signed(session.permit(AUDIO), ConnectSound())
    ) as begun:
        assert begun.value == Empty()
        (fd,) = begun.fds
        with socket.socket(fileno=fd) as ours:
            ours.sendall(b"hello")
            with server.accept()[0] as conn:
                assert conn.recv(5) == b"hello"


@pytest.mark.parametrize(
    "forge",
    [
        lambda session: b"-",
        lambda session: b"x" * 80,
        lambda session: session.permit(AUDIO)[:-1] + b" ",
        lambda session: session.permit(SSH_AGENT),
        lambda session: session.permit(AUDIO, target="mail-1"),
        lambda session: session.permit(AUDIO, at=time.monotonic() - 61),
        lambda session: session.permit(AUDIO, at=time.monotonic() + 10),
    ],
    ids=["none", "other key", "changed", "service", "target", "old", "early"],
)
async def test_an_order_without_the_authoritys_word_opens_nothing(sound, forge):
    server, session = sound
    with pytest.raises(RefusedError):
        await session.carry_out(Signed(forge(session), ConnectSound()))
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()


async def test_the_failure_of_an_order_is_the_callers(tmp_path):
    environ = dict(os.environ, PULSE_SERVER=f"unix:{tmp_path}/none")
    with starter_of_orders(environ) as session:
        with pytest.raises(UpstreamError, match="cannot connect") as caught:
            await session.carry_out(Signed(session.permit(AUDIO), ConnectSound()))
        assert "start the program" in caught.value.hint
        # The next one is carried out, too.
        with pytest.raises(UpstreamError):
            await session.carry_out(Signed(session.permit(AUDIO), ConnectSound()))


async def test_a_cancelled_order_leaves_no_child(sound):
    server, session = sound
    async with session.carrying_out(
        Signed(session.permit(AUDIO), ConnectSound())
    ) as begun:
        pass
    # The process has ended, and who ended the connection that is still open here.
    with socket.socket(fileno=begun.fds[0]), server.accept()[0] as conn:
        conn.settimeout(20)
        assert conn.recv(1) == b""


async def _asks_a_helper(control):
    """Whether the starter still serves its authority."""
    helper = await HelperStarter(control).notify("title", "text", 1)
    return await helper.wait() is not None


@pytest.mark.parametrize(
    "how", ["garbage", "another order", "unread", "no descriptor", "slow to close"]
)
async def test_a_viewer_that_was_taken_over_ends_no_starter(monkeypatch, how, tmp_path):
    """The person is still asked: the starter serves the authority, too."""
    notify = tmp_path / "notify-send"
    notify.write_text("#!/bin/sh\n")
    notify.chmod(0o755)
    environ = dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}")
    with (
        ExitStack() as stack,
        starter_of_orders(environ) as session,
        trio.fail_after(60),
    ):
        sock = session.starter.control
        if how == "garbage":
            fdpass.send(sock, b"garbage")
        elif how == "another order":
            read, write = os.pipe()
            fdpass.send(sock, call_bytes(1, "ForkPump"), [write, write])
            os.close(read)
            os.close(write)
        elif how == "no descriptor":
            fdpass.send(sock, call_bytes(1, "ForkSession"))
        elif how == "slow to close":
            order = call_bytes(1, "ForkSession")
            stack.enter_context(given_slow_socket(sock, order))
        else:
            sock.settimeout(5)
            for number in range(5000):
                with socket.socket(socket.AF_UNIX) as fd:
                    order = call_bytes(number + 1, "ForkSession")
                    try:
                        fdpass.send(sock, order, [fd.fileno()] * 2)
                    except (TimeoutError, BrokenPipeError, ConnectionResetError):
                        break
        assert await _asks_a_helper(session.control)


FEW = "from broker.ipc import fork_server; fork_server.ORDERS = 2"


async def test_orders_at_one_time_are_few(tmp_path):
    """A viewer that was taken over cannot use up the user's processes."""
    path = tmp_path / "sound"
    environ = dict(os.environ, PULSE_SERVER=f"unix:{path}")
    with (
        socket.socket(socket.AF_UNIX) as server,
        starter_of_orders(environ, prepare=FEW) as session,
        trio.fail_after(60),
    ):
        server.bind(str(path))
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))  # others wait for a place
            refused = trio.Event()

            async def ask():
                try:
                    await session.carry_out(
                        Signed(session.permit(AUDIO), ConnectSound())
                    )
                except UpstreamError as error:
                    if "carried out" in str(error):
                        refused.set()

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(ask)
                await refused.wait()
                nursery.cancel_scope.cancel()
