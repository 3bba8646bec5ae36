"""Calls of fork servers: what fits into one, and what a fork server refuses."""

from __future__ import annotations

import pytest

from broker.core import limits
from broker.core.errors import InternalError
from broker.ipc import fork_server as messages
from broker.wire.calls import MESSAGE_BYTES, Calls
from broker.wire.row import ProcessKind

MOST = limits.WAYLAND_CLIENTS_PER_SANDBOX


def client():
    return Calls(messages.CLIENT, ProcessKind.FORK_SERVER, messages.FORK_ROWS)


@pytest.mark.parametrize(
    ("row", "request_", "descriptors"),
    [
        (messages.FORK_WORKER, messages.ForkWorker(allow_unjailed=False), 4),
        (messages.FORK_KEEPER, messages.ForkKeeper("work", "/run/w", MOST), 3),
        (messages.FORK_ACCEPTOR, messages.ForkAcceptor([True]), 3),
        (
            messages.FORK_ACCEPTOR,
            messages.ForkAcceptor([True] * messages.ENTRANCES),
            messages.DESCRIPTORS,
        ),
    ],
)
def test_call_arrives(row, request_, descriptors):
    server = Calls(ProcessKind.FORK_SERVER, messages.CLIENT, messages.FORK_ROWS)
    _, data = client().call(row, request_, descriptors)
    event = server.receive(data, descriptors)
    assert (event.row, event.request) == (row, request_)


@pytest.mark.parametrize(
    ("row", "request_", "descriptors"),
    [
        (messages.FORK_KEEPER, messages.ForkKeeper("a", "/x", MOST + 1), 3),
        (messages.FORK_KEEPER, messages.ForkKeeper("a", "/x", 0), 3),
        (
            messages.FORK_ACCEPTOR,
            messages.ForkAcceptor([True] * (messages.ENTRANCES + 1)),
            3,
        ),
        (messages.FORK_ACCEPTOR, messages.ForkAcceptor([True]), 4),
        (messages.FORK_KEEPER, messages.ForkKeeper("a", "/" * MESSAGE_BYTES, 1), 3),
    ],
    ids=["too-many-clients", "no-clients", "entrances", "descriptors", "too-long"],
)
def test_call_beyond_its_limits_is_not_sent(row, request_, descriptors):
    with pytest.raises(InternalError):
        client().call(row, request_, descriptors)
