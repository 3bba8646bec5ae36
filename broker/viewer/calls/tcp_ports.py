"""TCP ports of the user's loopback: connected to, listened on, and who connects there."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import trio

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.limits import transfer as limits
from broker.viewer.opening.failures import ToldError

LOOPBACK = "127.0.0.1"
_TABLE = Path("/proc/net/tcp")
_BACKLOG = 64
_PORT = re.compile("[1-9][0-9]{0,4}")


def take_port(untrusted_text: str) -> int:
    """Return a port by its decimal number, without zeros before it.

    Raises RefusedError.
    """
    # guard: a port has one spelling
    if not _PORT.fullmatch(untrusted_text) or int(untrusted_text) > 65535:
        raise RefusedError(f"'{printable(untrusted_text, 20)}' is not a port")
    return int(untrusted_text)


async def user_port(port: int) -> socket.socket:
    """Return a connection to a service of the user's on this machine's loopback.

    Raises ToldError where nothing listens there.
    """
    sock = trio.socket.socket()
    try:
        with trio.fail_after(limits.TRANSFER_TAKE_SECONDS):
            await sock.connect((LOOPBACK, port))
    except (OSError, trio.TooSlowError) as error:
        sock.close()
        raise ToldError(f"nothing answers on port {port}") from error
    except BaseException:
        sock.close()
        raise
    return socket.socket(fileno=sock.detach())


def listen(port: int) -> socket.socket:
    """Listen on a port of this machine's loopback; 0: the kernel chooses it.

    Raises RefusedError.
    """
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)  # noqa: FBT003
    except OSError as error:
        sock.close()
        raise RefusedError(
            f"port {port} of this machine cannot be used: {error.strerror}",
            hint="another program may listen there: take another, as 3001:8080",
        ) from error
    return sock


def is_own(conn: socket.socket, there: tuple[str, int]) -> bool:
    """Whether the program at ``there``, a loopback connection's far end, is the user's.

    Any user of this machine can connect to a port.  See proc(5), ``/proc/net/tcp``.
    """
    wanted = [_hex(*there), _hex(*conn.getsockname())]
    try:
        lines = _TABLE.read_text("ascii").splitlines()[1:]
    except OSError:
        return False
    for line in lines:
        fields = line.split()
        # One that its program has closed may have no owner any more.
        if fields[1:3] == wanted and fields[3] in {"01", "04", "05", "08"}:
            return int(fields[7]) == os.getuid()
    return False


def _hex(address: str, port: int) -> str:
    number = int.from_bytes(socket.inet_aton(address), sys.byteorder)
    return f"{number:08X}:{port:04X}"
