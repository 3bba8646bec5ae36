"""A viewer that was taken over starts a fork server that is to outlive the broker."""

from __future__ import annotations

import os
import select
import socket

import pytest
import trio

from broker.ipc.fork_server import ForkServerKind
from broker.ipc.session.program_orders import StartForkServer
from broker.wire import fdpass
from tests.kit.session import starter_of_orders


async def _order(module, told):
    """Be a viewer that orders a server, passes its pidfd on, and ends when told."""
    client, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with starter_of_orders() as session:
        order = StartForkServer(module)
        # Its standard error is the far end of its own socket, which never ends.
        fds = [far.fileno(), client.fileno()]
        async with session.carrying_out(order, fds) as begun:
            fdpass.send(told, b"-", [begun.process.fileno()])
            told.recv(1)
            os._exit(0)


@pytest.mark.parametrize("module", ForkServerKind)
def test_a_fork_server_ends_with_the_broker_whoever_has_its_socket(module):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            trio.run(_order, module, theirs)
        finally:
            os._exit(1)
    theirs.close()
    with ours:
        ours.settimeout(60)
        data, (server,) = fdpass.receive(ours, 1, 1)
        assert data == b"-"
        ended = select.poll()
        ended.register(server, select.POLLIN)
        assert not ended.poll(2000), "it serves"
    os.waitpid(pid, 0)
    assert ended.poll(20_000), "it has ended with its broker"
    os.close(server)
