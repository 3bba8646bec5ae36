"""TCP ports of the user's loopback: connected to, and listened on."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.ipc.session.service_orders import (
    ACCEPT_CONNECTION,
    CONNECT_PORT,
    LISTEN_PORT,
    AcceptConnection,
    ConnectPort,
    ListenPort,
    OpenedPort,
)
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.orders.session_orders import Begun, UserSession
from broker.wire.fdpass import DescriptorsLostError

_AGAIN_SECONDS = 0.1
_PORT = re.compile("[1-9][0-9]{0,4}")


def take_port(untrusted_text: str) -> int:
    """Parse a port: a decimal number without leading zeros.  Raises RefusedError."""
    # guard: a port has one spelling
    if not _PORT.fullmatch(untrusted_text) or int(untrusted_text) > 65535:
        raise RefusedError(f"'{printable(untrusted_text, 20)}' is not a port number")
    return int(untrusted_text)


async def user_port(session: UserSession, warrant: bytes, port: int) -> socket.socket:
    """Have a session child connect to the user's service on this machine's loopback.

    Raises ShareableError where nothing listens there.
    """
    try:
        answer = await session.carry_out(
            CONNECT_PORT, ConnectPort(port), warrant=warrant
        )
    except UpstreamError as error:
        raise ShareableError(f"no program is listening on port {port}") from error
    return socket.socket(fileno=answer.fds[0])


@dataclass(frozen=True)
class ListenedPort:
    """A port of the user's loopback on which a session child listens."""

    address: str
    number: int
    _begun: Begun[OpenedPort]

    async def accept(self) -> tuple[int, socket.socket | None]:
        """Return the next connection, and the port at its far end.

        None: another user of the machine has connected.  Raises VitrailError.
        """
        while True:
            try:
                order = AcceptConnection()
                accepted = await self._begun.more(ACCEPT_CONNECTION, order)
            # guard: a moment without descriptors in the viewer ends no forward
            except DescriptorsLostError:
                await trio.sleep(_AGAIN_SECONDS)
            else:
                fds = accepted.fds
                conn = socket.socket(fileno=fds[0]) if fds else None
                return accepted.value.port, conn


@asynccontextmanager
async def listening(
    session: UserSession, warrant: bytes, port: int
) -> AsyncIterator[ListenedPort]:
    """Have a port of the user's loopback listened on while the block runs; 0: any port.

    Raises RefusedError.
    """
    order = ListenPort(port)
    async with session.carrying_out(LISTEN_PORT, order, warrant=warrant) as begun:
        yield ListenedPort(begun.value.address, begun.value.port, begun)
