"""The HTTP end of a receiver: one connection that is kept while batches follow.

The shipper in its jail runs it, or ``brokerctl audit ship``.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from urllib.parse import urlsplit

from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper.config import HttpTarget

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class HttpEnd:
    """The server that a target names; ``what`` it is called in messages."""

    def __init__(self, config: HttpTarget, what: str, example: str, port: int) -> None:
        self._config, self._what, self._port = config, what, port
        self._parts = urlsplit(config.endpoint)
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._cut = False
        if self._parts.scheme not in {"http", "https"} or not self._parts.hostname:
            raise SetupError(
                f"target {config.name}: not an http(s) address: {config.where()}",
                hint=f"use an address such as {example}",
            )
        near = self._parts.hostname in _LOOPBACK
        if self._parts.scheme == "http" and not (near or config.plaintext):
            raise SetupError(
                f"target {config.name}: http:// to another machine is neither encrypted "
                "nor authenticated",
                hint="use https://, or set 'plaintext = true' on a trusted network",
            )

    def path(self, default: str) -> str:
        """The path and query of the endpoint."""
        path = self._parts.path or default
        return path + (f"?{self._parts.query}" if self._parts.query else "")

    def ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Send a request; return status and body of the answer.

        Closes the connection on failure.  Raises UpstreamError, SetupError.
        """
        try:
            return self._ask(method, path, body, headers)
        except UpstreamError:
            self.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UpstreamError(
                f"cannot send to {self._what}: {printable(str(error)) or type(error).__name__}",
                hint=f"check that {self._what} is running at {self._config.where()}",
            ) from error

    def _ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Send a request on the kept or a new connection; return status and body."""
        fresh = self._connection is None
        connection = self._connection or self._connect()
        self._connection = connection
        try:
            if fresh:
                connection.connect()
                # An answer may live longer than its connection.
                self._socket, self._cut = connection.sock, False
            connection.request(method, path, body, headers)
            response = connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self.close()
            if fresh:
                raise
            # It had grown tired of an idle connection: that is not an error.
            return self._ask(method, path, body, headers)
        with response:  # its end is not the connection's
            answer = response.read(audit_limits.SHIP_REPLY_BYTES + 1)
        if len(answer) > audit_limits.SHIP_REPLY_BYTES:
            raise UpstreamError(
                f"{self._what}'s answer is longer than {audit_limits.SHIP_REPLY_BYTES} bytes"
            )
        # Its beginning could be an answer too, which says that all is well.
        if response.length or self._cut:
            raise UpstreamError(f"{self._what}'s answer was truncated")
        return response.status, answer

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        seconds = audit_limits.SHIP_SECONDS
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port or self._port, timeout=seconds)
        try:
            context = ssl.create_default_context(cafile=self._config.ca or None)
            if self._config.certificate:
                context.load_cert_chain(
                    self._config.certificate, self._config.key or None
                )
        except (OSError, ssl.SSLError) as error:
            raise SetupError(
                f"target {self._config.name}: cannot load its certificates or key: {error}"
            ) from error
        return http.client.HTTPSConnection(
            host, port or 443, timeout=seconds, context=context
        )

    def close(self) -> None:
        """Let go of the connection."""
        self._socket = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def interrupt(self) -> None:
        """Shut the connection down, so that a call waiting in the thread fails."""
        sock = self._socket
        if sock is not None:
            self._cut = True
            # Not the TLS socket's own way, which would read on without TLS.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
