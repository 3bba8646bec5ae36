"""The broker's varlink interface, as the OCI hook calls it."""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Dict

from shims.hooks.user_socket import HookError, connect_to_user, require_peer

INTERFACE = "io.vitrail.Broker"
DEADLINE_SECONDS = 8.0
"""For the broker, all in all; below the timeout in the hook's JSON."""
RETRY_SECONDS = 0.05
REPLY_BYTES = 1 << 20


class Broker:
    """Calls of the broker's varlink interface, all within one deadline."""

    def __init__(self, path: str, uid: int, deadline: float) -> None:
        self._path = path
        self._uid = uid
        self._deadline = deadline

    def call(
        self, method: str, parameters: Dict[str, Any], *, patient: bool
    ) -> Dict[str, Any]:
        """Call a method; ``patient`` waits for a broker that is being restarted."""
        while True:
            try:
                return self._once(method, parameters)
            except (FileNotFoundError, ConnectionRefusedError) as error:  # noqa: PERF203
                if not patient or time.monotonic() + RETRY_SECONDS > self._deadline:
                    raise HookError(
                        f"cannot connect to {self._path}: {error}"
                    ) from error
                time.sleep(RETRY_SECONDS)
            except OSError as error:
                raise HookError(f"the broker does not answer: {error}") from error

    def _once(self, method: str, parameters: Dict[str, Any]) -> Dict[str, Any]:
        """Connect to the user's broker, call a method, and return its reply."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(self._left())
            # guard: a hook of root's connects to a socket of its user's
            connect_to_user(sock, self._path, self._uid)
            # guard: the hook speaks with a broker of its user's
            require_peer(sock, self._path, self._uid)
            request = {"method": f"{INTERFACE}.{method}", "parameters": parameters}
            sock.sendall(json.dumps(request).encode() + b"\0")
            reply = b""
            while not reply.endswith(b"\0"):
                sock.settimeout(self._left())
                more = sock.recv(65536)
                if not more or len(reply) > REPLY_BYTES:
                    raise HookError("the broker closed the connection")
                reply += more
        return take_reply(reply[:-1])

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise HookError(
                f"the broker did not answer within {DEADLINE_SECONDS:.0f} s"
            )
        return left


def take_reply(reply: bytes) -> Dict[str, Any]:
    """Return a reply's parameters; raises HookError with the broker's reason."""
    try:
        answer = json.loads(reply)
        parameters = answer.get("parameters") or {}
        if "error" in answer:
            reason = parameters.get("message") or answer["error"]
            raise HookError(f"the broker rejected the request: {reason}")
    except (ValueError, AttributeError, RecursionError) as error:
        raise HookError(f"the broker sent an invalid reply: {error}") from error
    if not isinstance(parameters, dict):
        raise HookError("the broker sent an invalid reply")
    return parameters
