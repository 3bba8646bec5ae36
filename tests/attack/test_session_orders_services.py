"""A viewer that was taken over orders services of the user's without the authority's word."""

from __future__ import annotations

import os
import socket

import pytest

from broker.core.errors import RefusedError, UpstreamError
from broker.core.services import AUDIO, TCP
from broker.ipc.session.services import ConnectPort, ListenPort
from tests.kit.session import session

__all__ = ["session"]


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener, listener.getsockname()[1]


# -- ports --------------------------------------------------------------------------------


async def test_a_permitted_port_is_connected_to(session, server):
    listener, port = server
    warrant = session.permit(TCP, argument=f"+{port}")
    _, (fd,) = await session.carry_out(ConnectPort(warrant, port))
    with socket.socket(fileno=fd) as ours, listener.accept()[0] as theirs:
        ours.sendall(b"hello")
        assert theirs.recv(5) == b"hello"
    listener.close()
    with pytest.raises(UpstreamError, match="nothing answers on port"):
        await session.carry_out(ConnectPort(warrant, port))


async def test_no_other_port_is_connected_to(session, server):
    listener, port = server
    for warrant in (
        b"",
        session.permit(TCP, argument=f"+{port - 1}"),
        session.permit(TCP, argument="+"),
        session.permit(TCP, argument=f"+{port}", target="vault"),
        session.permit(AUDIO, argument=f"+{port}"),
        session.call("Forward", sandbox="work", port=port, local=port),
    ):
        with pytest.raises(RefusedError):
            await session.carry_out(ConnectPort(warrant, port))
    with pytest.raises(BlockingIOError):
        listener.accept()


async def test_the_port_of_a_call_is_listened_on(session, server):
    _, taken = server
    warrant = session.call("Forward", sandbox="work", port=80, local=0)
    _, (fd, table) = await session.carry_out(ListenPort(warrant, 0))
    with socket.socket(fileno=fd) as ours:
        port = ours.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            assert f":{port:04X} ".encode() in os.pread(table, 1 << 16, 0)
    os.close(table)
    warrant = session.call("Forward", sandbox="work", port=80, local=taken)
    with pytest.raises(RefusedError, match="cannot be used") as caught:
        await session.carry_out(ListenPort(warrant, taken))
    assert "another program may listen there" in caught.value.hint


async def test_no_other_port_is_listened_on(session, server):
    _, taken = server
    for warrant in (
        b"",
        session.call("Forward", sandbox="work", port=taken, local=0),
        session.call("Start", sandbox="work", port=80, local=taken),
        session.permit(TCP, argument=f"+{taken}"),
    ):
        with pytest.raises(RefusedError) as caught:
            await session.carry_out(ListenPort(warrant, taken))
        assert "cannot be used" not in caught.value.message
