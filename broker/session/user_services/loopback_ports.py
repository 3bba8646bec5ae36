"""TCP ports of the user's loopback: connected to, and listened on."""

from __future__ import annotations

import os
import socket

import msgspec

from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import transfer as limits
from broker.core.services import TCP
from broker.ipc.session import service_orders as m
from broker.session.errand import Errand

_LOOPBACK = "127.0.0.1"
_TABLE = "/proc/net/tcp"
_BACKLOG = 64


class _Forwarded(msgspec.Struct):
    """The parameter of ``Forward`` that is looked at (``api.ForwardRequest``)."""

    local: int


def connect_port(errand: Errand, order: m.ConnectPort) -> None:
    """Connect to a loopback port that a sandbox may use; answer with the socket.

    Raises RefusedError, UpstreamError where nothing listens there.
    """
    permit = errand.permit(order.warrant, {TCP})
    # guard: a permit for one port opens no other one
    if permit.argument != f"+{order.port}":
        raise RefusedError(
            f"the permit is for {permit.argument}, not for +{order.port}"
        )
    with socket.socket() as sock:
        sock.settimeout(limits.TRANSFER_TAKE_SECONDS)
        try:
            sock.connect((_LOOPBACK, order.port))
        except OSError as error:
            raise UpstreamError(f"no program answers on port {order.port}") from error
        errand.answer(fds=[sock.fileno()])


def listen_port(errand: Errand, order: m.ListenPort) -> None:
    """Listen on the port that the user forwards (0: any); answer with the socket.

    Raises RefusedError.
    """
    call = errand.call(order.warrant, {"Forward"})
    asked = msgspec.json.decode(call.parameters, type=_Forwarded)
    # guard: a call for one port listens on no other one
    if asked.local != order.port:
        raise RefusedError(f"the call forwards port {asked.local}, not {order.port}")
    table = os.open(_TABLE, os.O_RDONLY | os.O_CLOEXEC)
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((_LOOPBACK, order.port))
            sock.listen(_BACKLOG)
        except OSError as error:
            raise RefusedError(
                f"cannot use port {order.port} of this machine: {error.strerror}",
                hint="if another program listens there, choose another port, such as 3001:8080",
            ) from error
        errand.answer(fds=[sock.fileno(), table])
