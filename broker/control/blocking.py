"""A client of the control socket without an event loop.

For verbs that ask once and end (``status``): importing trio takes longer than
the question.  Each wait has a deadline.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from broker.control import varlink
from broker.control.api import INTERFACE
from broker.control.methods import Method
from broker.control.varlink import Call, VarlinkReader
from broker.core.errors import InternalError, SetupError, UpstreamError
from broker.core.paths import Paths, require_private

ANSWER_SECONDS = 30.0
"""For one answer, as in ``client``."""

_READ_BYTES = 65536
_UCRED = struct.Struct("3i")  # struct ucred, unix(7)
_Request = TypeVar("_Request", bound=msgspec.Struct)
_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class BlockingClient:
    """A connection to a broker; made by ``open_blocking``."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn
        self._reader = VarlinkReader()

    def call(self, method: Method[_Request, _Answer], request: _Request) -> _Answer:
        """Call a method that has one answer.

        Raises what the broker refuses with, or UpstreamError when it does not
        answer in time.
        """
        call = Call(f"{INTERFACE}.{method.name}", varlink.raw(request))
        try:
            self._conn.sendall(varlink.encode(call))
            reply = varlink.decode_reply(self._receive())
        except TimeoutError as error:
            raise UpstreamError(
                f"the broker did not answer within {ANSWER_SECONDS:g} s",
                hint="'brokerctl doctor' looks for the reason",
            ) from error
        if reply.error:
            raise varlink.error_of(reply)
        try:
            return msgspec.json.decode(reply.parameters, type=method.answer)
        except varlink.BAD_JSON as error:
            raise InternalError(
                f"the broker's answer is not understood: {error}",
                hint="are brokerctl and the running broker of one version?",
            ) from error

    def _receive(self) -> bytes:
        while True:
            try:
                data = self._conn.recv(_READ_BYTES)
            except ConnectionResetError:
                data = b""
            if not data:
                raise UpstreamError(
                    "the broker closed the connection before it answered",
                    hint="it may have ended; its log and 'brokerctl audit' say why",
                )
            messages = self._reader.feed(data)
            if messages:
                return messages[0]


@contextmanager
def open_blocking(
    paths: Paths,
    *,
    start: str | Callable[[], str] = "'brokerctl run SANDBOX' starts one",
) -> Iterator[BlockingClient]:
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
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise SetupError(
                f"no broker runs (nothing answers at {path})",
                hint=start if isinstance(start, str) else start(),
            ) from error
        except OSError as error:
            raise SetupError(
                f"the broker at {path} cannot be reached: {error}",
                hint="a broker serves the user who started it: are you that user?",
            ) from error
        require_own(conn, path)
        yield BlockingClient(conn)


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
            f"the broker at {path} is another user's (uid {uid})",
            hint="is XDG_RUNTIME_DIR your own?",
        )
