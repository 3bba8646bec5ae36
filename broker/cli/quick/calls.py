"""Calls of the control socket with the json module alone.

``control.blocking`` checks answers by msgspec, and its errors are read by that here,
too: but only where there is one.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import ExitStack

from broker.core.errors import InternalError, SetupError, UpstreamError
from broker.core.paths import Paths, require_private

_INTERFACE = "io.vitrail.Broker"
_ANSWER_SECONDS = 30.0
_ANSWER_BYTES = 1 << 20
_READ_BYTES = 65536
_UCRED = struct.Struct("3i")


class Calls:
    """A connection to a broker of this user's; made by ``open_calls``."""

    def __init__(self, conn: socket.socket) -> None:
        self._conn = conn

    def call(self, method: str, parameters: dict[str, object]) -> dict[str, object]:
        """Return the answer of a method that has one.

        Raises what the broker refuses with, or UpstreamError when it does not
        answer in time.
        """
        call = {"method": f"{_INTERFACE}.{method}", "parameters": parameters}
        try:
            self._conn.sendall(json.dumps(call).encode() + b"\0")
            message = self._receive()
        except TimeoutError as error:
            raise UpstreamError(
                f"the broker did not answer within {_ANSWER_SECONDS:g} s",
                hint="'brokerctl doctor' looks for the reason",
            ) from error
        except OSError as error:
            raise _gone() from error
        try:
            reply = json.loads(message)
        except ValueError as error:
            raise InternalError(f"the broker's answer is not JSON: {error}") from error
        if "error" in reply:
            # Late: msgspec and the tables of the interface.
            from broker.control import varlink

            raise varlink.error_of(varlink.decode_reply(message))
        answer: dict[str, object] = reply.get("parameters", {})
        return answer

    def _receive(self) -> bytes:
        message = b""
        while not message.endswith(b"\0"):
            data = self._conn.recv(_READ_BYTES)
            if not data or len(message) > _ANSWER_BYTES:
                raise _gone()
            message += data
        return message[:-1]


def _gone() -> UpstreamError:
    return UpstreamError(
        "the broker closed the connection before it answered",
        hint="it may have ended; its log and 'brokerctl audit' say why",
    )


def open_calls(stack: ExitStack, paths: Paths) -> Calls | None:
    """Connect to a broker that runs as this user and answers.

    None: there is none, or others may put sockets into its directory.
    """
    conn = stack.enter_context(socket.socket(socket.AF_UNIX))
    conn.settimeout(_ANSWER_SECONDS)
    try:
        # guard: calls in haste look at the runtime directory
        require_private(paths)
        conn.connect(os.fspath(paths.control))
        peer = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        calls = Calls(conn)
        # guard: calls in haste go to a broker of their user's
        if _UCRED.unpack(peer)[1] not in {0, os.getuid()}:
            return None
        # One that is just ending, or that a service manager has yet to start.
        calls.call("GetVersion", {})
    except (OSError, SetupError, UpstreamError):
        return None
    return calls
