"""TCP ports of the user's loopback: connected to, and listened on.

A session child does so by a permit's warrant, and gives the viewer the connection.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import transfer as limits
from broker.ipc.session import service_orders as m
from broker.session.order_exchange import OrderExchange, one_of
from broker.wire.row import serves

_LOOPBACK = "127.0.0.1"
_TABLE = Path("/proc/net/tcp")
_BACKLOG = 64
_AGAIN_SECONDS = 0.1


class _Forwarded(msgspec.Struct):
    """The parameters of ``Forward`` that are used here (``api.ForwardRequest``)."""

    local: int
    port: int
    sandbox: str
    localhost: bool | None = None


@serves(m.CONNECT_PORT)
def connect_port(exchange: OrderExchange, order: m.ConnectPort) -> None:
    """Connect to a loopback port that a sandbox may use; answer with the socket.

    Raises RefusedError, UpstreamError where nothing listens there.
    """
    permit = exchange.permit
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
        exchange.answer(fds=[sock.fileno()])


@serves(m.LISTEN_PORT)
def listen_port(exchange: OrderExchange, order: m.ListenPort) -> None:
    """Listen on the port that the user forwards (0: any); answer with address and port.

    Each ``AcceptConnection`` is answered with a connection.  Raises RefusedError.
    """
    asked = msgspec.json.decode(exchange.user_call.parameters, type=_Forwarded)
    # guard: a call for one port listens on no other one
    if asked.local != order.port:
        raise RefusedError(f"the call forwards port {asked.local}, not {order.port}")
    # guard: a sandbox's ports are another host than the user's own services
    address = _LOOPBACK if asked.localhost else loopback_address(asked.sandbox)
    with socket.socket() as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, order.port))
            listener.listen(_BACKLOG)
        except OSError as error:
            raise RefusedError(
                f"cannot use port {order.port} of {address}: {error.strerror}",
                hint=_other_port(error, asked),
            ) from error
        listener.settimeout(0)
        # After shutdown(2) a listening socket can connect, also by sendto(2), which
        # Landlock does not govern.
        # guard: a viewer has no socket that listens on the user's loopback
        exchange.answer(m.OpenedPort(*listener.getsockname()))
        port = _ListenedPort(listener)
        while exchange.serve_next(one_of(port.pass_next)):
            pass


def _other_port(error: OSError, forward: _Forwarded) -> str:
    """Return what to forward instead of a port that cannot be used."""
    if error.errno == errno.EACCES:
        other = forward.local + 8000  # 80 as 8080, 443 as 8443
        return f"ports below 1024 are root's; choose another local port, such as {other}:{forward.port}"
    other = forward.local + (1 if forward.local < 65535 else -1)
    return f"if another program listens there, choose another local port, such as {other}:{forward.port}"


def loopback_address(sandbox: str) -> str:
    """Return the loopback address of a sandbox's ports, from 127.64.0.1 on.

    Cookies have no port (RFC 6265, 8.5), and pages of one host are of one site: on
    127.0.0.1 a sandbox's page would get the cookies of the user's own services, and set
    them.  The address follows from the name, so that bookmarks and logins stay valid.
    """
    digest = hashlib.sha256(sandbox.encode()).digest()
    return f"127.{64 + digest[0] % 128}.{digest[1]}.{1 + digest[2] % 254}"


@dataclass(frozen=True)
class _ListenedPort:
    """A port on which this child listens."""

    listener: socket.socket

    @serves(m.ACCEPT_CONNECTION)
    def pass_next(self, exchange: OrderExchange, _request: m.AcceptConnection) -> None:
        """Answer with the next connection; return without one when the viewer hangs up."""
        waiting = select.poll()
        for fd in (channel := exchange.channel.fileno(), self.listener.fileno()):
            waiting.register(fd, select.POLLIN)
        while channel not in {fd for fd, _ in waiting.poll()}:
            try:
                conn, there = self.listener.accept()
                with conn:
                    conn.setblocking(False)  # noqa: FBT003 -- socket has no name for it
                    # guard: a forwarded port serves its user alone
                    fds = [conn.fileno()] if is_own(conn, there) else []
                    exchange.answer(m.AcceptedConnection(there[1]), fds)
            # guard: a moment without descriptors ends no forward
            except OSError:
                time.sleep(_AGAIN_SECONDS)
            else:
                return


def is_own(conn: socket.socket, there: tuple[str, int]) -> bool:
    """Return whether the program at the far end of a loopback connection is the user's.

    Any user of this machine can connect to a port.  Raises OSError.
    """
    wanted = [_hex(*there), _hex(*conn.getsockname())]
    # The kernel writes a line for each TCP socket of the machine, of any user (proc(5)).
    for line in _TABLE.read_text("ascii").splitlines()[1:]:
        fields = line.split()
        # A socket that its program has closed may have no owner any more.
        if fields[1:3] == wanted and fields[3] in {"01", "04", "05", "08"}:
            return int(fields[7]) == os.getuid()
    return False


def _hex(address: str, port: int) -> str:
    number = int.from_bytes(socket.inet_aton(address), sys.byteorder)
    return f"{number:08X}:{port:04X}"
