"""A client of the control socket without an event loop.

For verbs that ask once and end (``status``): importing trio takes longer than
the question.  Each wait has a deadline.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from broker.control import varlink
from broker.control.api import INTERFACE
from broker.control.methods import Method
from broker.control.varlink import Call, VarlinkReader
from broker.core.errors import InternalError, SetupError, UpstreamError

ANSWER_SECONDS = 30.0
"""For one answer, as in ``client``."""

_READ_BYTES = 65536
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
    path: Path, *, start: str = "'brokerctl run SANDBOX' starts one"
) -> Iterator[BlockingClient]:
    """Connect to the broker that serves at ``path``.

    Raises SetupError when none does, which says ``start``, or when it may not
    be reached.
    """
    with socket.socket(socket.AF_UNIX) as conn:
        conn.settimeout(ANSWER_SECONDS)
        try:
            conn.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise SetupError(
                f"no broker runs (nothing answers at {path})", hint=start
            ) from error
        except OSError as error:
            raise SetupError(
                f"the broker at {path} cannot be reached: {error}",
                hint="a broker serves the user who started it: are you that user?",
            ) from error
        yield BlockingClient(conn)
