"""A connection to a broker's control socket, without an event loop and without types.

Only programs of broker/cli run this (brokerctl, the manager), with the user's rights.

For the clients: it connects to a broker of this user's and to no other, sends a
message, and waits for the next one for a limited time.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths, require_private

ANSWER_SECONDS = 30.0
"""For one answer of a method that does not wait for a machine."""
STARTED_BY = "to start one, run 'brokerctl run SANDBOX'"

_READ_BYTES = 65536
# limits.CONTROL_MESSAGE_BYTES: the package of limits takes longer to import than this.
_ANSWER_BYTES = 1 << 20
_UCRED = struct.Struct("3i")  # struct ucred, unix(7)


class BrokerGoneError(UpstreamError):
    """The broker ended, or closed the connection, before it answered."""


class BrokerMissingError(SetupError):
    """No broker is at the control socket's path; a broker that lost it may run."""


class BrokerSilentError(UpstreamError):
    """The broker's process is there, and does not answer."""


def gone() -> BrokerGoneError:
    """Return the error of a connection that the broker closed."""
    return BrokerGoneError(
        "the broker closed the connection before it answered",
        hint="if the broker ended, see its log and 'brokerctl audit' for the reason",
    )


def late() -> BrokerSilentError:
    """Return the error of an answer that does not come."""
    return BrokerSilentError(
        f"the broker did not answer within {ANSWER_SECONDS:g} s",
        hint="to look for the reason, run 'brokerctl doctor'",
    )


def unreachable(
    path: Path, error: OSError, start: str
) -> SetupError | BrokerSilentError:
    """Return the error of a connection that was not made; ``start`` is a hint."""
    if isinstance(error, BlockingIOError | TimeoutError):
        return BrokerSilentError(
            f"the broker at {path} takes no connections: {error.strerror or error}",
            hint="to look for the reason, run 'brokerctl doctor'",
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        text = f"no broker is running (no answer at {path})"
        return BrokerMissingError(text, hint=start)
    return SetupError(
        f"cannot connect to the broker at {path}: {error}",
        hint="run the command as the user who started the broker; to find other reasons, run 'brokerctl doctor'",
    )


class Connection:
    """Messages to and from a broker, one at a time; made by ``open_connection``."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._buffer = b""

    def send(self, message: bytes, seconds: float | None) -> None:
        """Send a message; sending and the answer have ``seconds``.

        Raises UpstreamError.
        """
        self._conn.settimeout(seconds)
        try:
            self._conn.sendall(message + b"\0")
        except TimeoutError as error:
            raise late() from error
        except (BrokenPipeError, ConnectionResetError):
            # It may have refused us and hung up before we asked: the reply is there
            # to be read, and if it is not, receiving says so.
            return

    def receive(self) -> bytes:
        """Read the next varlink message from the broker.  Raises UpstreamError."""
        while b"\0" not in self._buffer:
            try:
                data = self._conn.recv(_READ_BYTES)
            except TimeoutError as error:
                raise late() from error
            except ConnectionResetError:
                data = b""
            if not data or len(self._buffer) > _ANSWER_BYTES:
                raise gone()
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return message


@contextmanager
def open_connection(
    paths: Paths, start: str | Callable[[], str] = STARTED_BY
) -> Iterator[Connection]:
    """Connect to this user's broker.

    Raises SetupError when none runs, which says ``start``, when it may not be
    reached, or when others may put sockets into the runtime directory.
    """
    # guard: verbs that ask once look at the runtime directory
    require_private(paths)
    path = paths.control
    with socket.socket(socket.AF_UNIX) as conn:
        conn.settimeout(ANSWER_SECONDS)
        try:
            conn.connect(os.fspath(path))
        except OSError as error:
            hint = start if isinstance(start, str) else start()
            raise unreachable(path, error, hint) from error
        require_own(conn, path)
        yield Connection(conn)


class _Socket(Protocol):
    """The part of a socket that ``require_own`` needs: Python's, or trio's."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        """As socket.getsockopt."""
        ...


def require_own(conn: _Socket, path: Path) -> None:
    """Refuse a server of another user before any request is sent to it.

    XDG_RUNTIME_DIR may name a directory that another user serves, and requests
    contain the arguments and the environment of programs, and answers to questions.

    Raises SetupError.
    """
    ucred = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid = _UCRED.unpack(ucred)[1]
    # guard: brokerctl speaks with a broker of its user's
    if os.getuid() != 0 and uid not in {0, os.getuid()}:
        raise SetupError(
            f"the broker at {path} belongs to another user (uid {uid})",
            hint="check that XDG_RUNTIME_DIR is your own directory",
        )
