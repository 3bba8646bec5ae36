"""Orders and answers of fork servers."""

from __future__ import annotations

import msgspec
import pytest

from broker.core import limits
from broker.core.errors import InternalError
from broker.ipc import fork_server as messages

MOST = limits.WAYLAND_CLIENTS_PER_SANDBOX
ORDERS = [
    messages.ForkWorker(1, allow_unjailed=False),
    messages.ForkKeeper(2, "work", "/run/wayland-1", MOST),
    messages.ForkAcceptor(3, [True] * messages.ENTRANCES),
]
ANSWERS = [
    messages.Forked(1, 7),
    messages.Forked(1, 7, messages.Jail(namespaces=True, seccomp=True, landlock=3)),
    messages.ForkFailed(1, "Resource temporarily unavailable"),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda m: type(m).__name__)
def test_an_order_arrives(order):
    assert messages.decode_order(messages.encode(order)) == order
    with pytest.raises(InternalError, match="invalid answer of a fork server"):
        messages.decode_answer(messages.encode(order))


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_arrives(answer):
    assert messages.decode_answer(messages.encode(answer)) == answer
    with pytest.raises(InternalError, match="invalid order to fork"):
        messages.decode_order(messages.encode(answer))


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(
            messages.ForkKeeper(2, "a", "/x", MOST + 1), id="too-many-clients"
        ),
        pytest.param(messages.ForkKeeper(2, "a", "/x", 0), id="no-clients"),
        pytest.param(
            messages.ForkAcceptor(3, [True] * (messages.ENTRANCES + 1)), id="entrances"
        ),
        pytest.param(messages.ForkWorker(-1, allow_unjailed=False), id="negative"),
    ],
)
def test_an_order_beyond_its_limits_is_none(order):
    with pytest.raises(InternalError, match="invalid order to fork"):
        messages.decode_order(msgspec.msgpack.encode(order))


def test_a_message_that_fits_into_no_packet_is_not_sent():
    order = messages.ForkKeeper(2, "a", "/" * messages.MESSAGE_BYTES, 1)
    with pytest.raises(InternalError, match="fork server's message is too long"):
        messages.encode(order)
