"""TCP ports of the user's loopback: connected to, listened on, and who connects there."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.ipc.session.service_orders import ConnectPort, ListenPort
from broker.viewer.opening.failures import ToldError
from broker.viewer.orders.session_orders import UserSession

_READ_BYTES = 1 << 16
_PORT = re.compile("[1-9][0-9]{0,4}")


def take_port(untrusted_text: str) -> int:
    """Parse a port: a decimal number without leading zeros.  Raises RefusedError."""
    # guard: a port has one spelling
    if not _PORT.fullmatch(untrusted_text) or int(untrusted_text) > 65535:
        raise RefusedError(f"'{printable(untrusted_text, 20)}' is not a port number")
    return int(untrusted_text)


async def user_port(session: UserSession, warrant: bytes, port: int) -> socket.socket:
    """Connect to the user's service on this machine's loopback.

    Raises ToldError where nothing listens there.
    """
    try:
        _, (fd,) = await session.carry_out(ConnectPort(warrant, port))
    except UpstreamError as error:
        raise ToldError(f"no program is listening on port {port}") from error
    return socket.socket(fileno=fd)


@asynccontextmanager
async def listening(
    session: UserSession, warrant: bytes, port: int
) -> AsyncIterator[tuple[socket.socket, int]]:
    """Listen on a port of the user's loopback while the block runs; 0: any port.

    Yields the socket and a descriptor of ``/proc/net/tcp``.  Raises RefusedError.
    """
    _, (fd, table) = await session.carry_out(ListenPort(warrant, port))
    try:
        with socket.socket(fileno=fd) as listener:
            listener.setblocking(False)  # noqa: FBT003
            yield listener, table
    finally:
        os.close(table)


def is_own(table: int, conn: socket.socket, there: tuple[str, int]) -> bool:
    """Return whether the program at the far end of a loopback connection is the user's.

    Any user of this machine can connect to a port.  ``table``: a descriptor of
    ``/proc/net/tcp``, see proc(5).
    """
    wanted = [_hex(*there), _hex(*conn.getsockname())]
    for line in _read(table).decode("ascii").splitlines()[1:]:
        fields = line.split()
        # One that its program has closed may have no owner any more.
        if fields[1:3] == wanted and fields[3] in {"01", "04", "05", "08"}:
            return int(fields[7]) == os.getuid()
    return False


def _read(table: int) -> bytes:
    """Return the table as it is now; by offsets, as several threads may read it."""
    found = bytearray()
    while data := os.pread(table, _READ_BYTES, len(found)):
        found += data
    return bytes(found)


def _hex(address: str, port: int) -> str:
    number = int.from_bytes(socket.inet_aton(address), sys.byteorder)
    return f"{number:08X}:{port:04X}"
