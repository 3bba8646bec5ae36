"""A broker that takes a connection and says nothing is not waited for without an end."""

from __future__ import annotations

import socket

import pytest
import trio

from broker.ipc.control.blocking import BlockingClient
from broker.ipc.control.blocking_connection import BrokerSilentError, Connection
from broker.ipc.control.client import Client
from broker.ipc.control.shared_methods import STOP
from broker.ipc.control.types.base import StopRequest


@pytest.fixture(name="ends")
def _ends(monkeypatch):
    for module in ("blocking", "client"):
        monkeypatch.setattr(f"broker.ipc.control.{module}.ANSWER_SECONDS", 0.2)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_method_that_waits_is_called_of_one_that_answers(ends):
    with pytest.raises(BrokerSilentError):
        BlockingClient(Connection(ends[0])).call(STOP, StopRequest())
    assert b"GetVersion" in ends[1].recv(4096)


async def test_the_same_in_an_event_loop(ends):
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ends[0]))
    with pytest.raises(BrokerSilentError), trio.fail_after(20):
        await Client(stream).call(STOP, StopRequest())
    assert b"GetVersion" in ends[1].recv(4096)
