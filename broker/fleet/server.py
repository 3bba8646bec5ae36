"""The ingest service over HTTP: h11's protocol on trio's sockets."""

from __future__ import annotations

import re
import ssl
import zlib
from dataclasses import dataclass

import msgspec
import trio

from broker.core.errors import IntegrityError, RefusedError, SetupError, VitrailError
from broker.core.escape import printable
from broker.core.stderr_log import log_exception, log_stderr
from broker.fleet.store import Credential, IngestStore
from broker.ipc.audit.ingest import BATCH_BYTES, Position, Refusal, SignedBatch

try:
    import h11
except ImportError as _error:
    raise SetupError(
        "the ingest service needs a package that is not installed (h11)",
        hint="install it, for example: pip install 'vitrail[fleet]'",
    ) from _error

_SECONDS = 30.0
"""For a request from its first byte to its last; and a connection may be idle so long."""
_CHUNK = 65536
_POSITION = re.compile(rb"/v1/position/([0-9a-f]{32})")
_batch = msgspec.json.Decoder(SignedBatch)


@dataclass
class IngestLimits:
    """How much at once."""

    connections: int = 2000
    threads: int = 8


class IngestServer:
    """Answers machines; one task a connection, the database in threads."""

    def __init__(self, store: IngestStore, limits: IngestLimits) -> None:
        self._store = store
        self._threads = trio.CapacityLimiter(limits.threads)
        self._room = trio.CapacityLimiter(limits.connections)

    async def serve(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        *,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; reports the port.  Raises OSError."""
        listeners = await trio.open_tcp_listeners(port, host=host or None)
        task_status.started(listeners[0].socket.getsockname()[1])

        async def handle(stream: trio.SocketStream) -> None:
            async with self._room:
                await self._connection(stream, context)

        await trio.serve_listeners(handle, listeners)

    async def _connection(
        self, socket: trio.SocketStream, context: ssl.SSLContext | None
    ) -> None:
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = socket
        try:
            with trio.fail_after(_SECONDS):
                if context is not None:
                    stream = trio.SSLStream(
                        socket, context, server_side=True, https_compatible=True
                    )
                    await stream.do_handshake()
            await self._requests(stream, _certificate(stream))
        except (
            trio.BrokenResourceError,
            trio.TooSlowError,
            h11.RemoteProtocolError,
        ) as error:
            # The machine sends its batch again.
            log_stderr(
                f"vitrail-ingest: a connection ended: {printable(repr(error), 200)}"
            )
        except Exception as error:  # noqa: BLE001
            # A fault of ours ends this connection alone.
            log_exception(error)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.aclose_forcefully(stream)

    async def _requests(
        self,
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        certificate: str,
    ) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=16384)
        while True:
            with trio.fail_after(_SECONDS):
                request, body = await _request(http, stream)
            if request is None:
                return
            status, answer = await self._answer(request, body, certificate)
            data = msgspec.json.encode(answer)
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(data))),
            ]
            with trio.fail_after(_SECONDS):
                for event in (
                    h11.Response(status_code=status, headers=headers),
                    h11.Data(data=data),
                    h11.EndOfMessage(),
                ):
                    await stream.send_all(http.send(event) or b"")
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _answer(
        self, request: h11.Request, body: bytes | None, certificate: str
    ) -> tuple[int, Position | Refusal]:
        headers = dict(request.headers)
        token = headers.get(b"authorization", b"").decode("ascii", "replace")
        shown = Credential(token.removeprefix("Bearer "), certificate)
        place = _POSITION.fullmatch(request.target)
        try:
            if request.method == b"GET" and place is not None:
                machine = headers.get(b"vitrail-machine", b"").decode(
                    "utf-8", "replace"
                )
                return 200, await self._in_thread(
                    self._store.position, machine, place[1].decode(), shown
                )
            if request.method == b"POST" and request.target == b"/v1/batch":
                batch = _decoded(body, headers.get(b"content-encoding", b""))
                return 200, await self._in_thread(self._store.take, batch, shown)
        except RefusedError as error:
            log_stderr(f"vitrail-ingest: refused: {printable(str(error), 300)}")
            return 403, Refusal(str(error), error.hint or "")
        except IntegrityError as error:
            log_stderr(f"vitrail-ingest: conflict: {printable(str(error), 300)}")
            return 409, Refusal(str(error), error.hint or "")
        except VitrailError as error:
            log_stderr(f"vitrail-ingest: {printable(str(error), 300)}")
            return 503, Refusal("the store fails; come again")
        return 404, Refusal("there is no such thing here")

    async def _in_thread(self, function, *arguments) -> Position:  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002
        found = await trio.to_thread.run_sync(
            function, *arguments, limiter=self._threads
        )
        assert isinstance(found, Position)
        return found


async def _request(
    http: h11.Connection, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
) -> tuple[h11.Request | None, bytes | None]:
    """The next request and its body; no body where it is too long."""
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                go = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(http.send(go) or b"")
            http.receive_data(bytes(await stream.receive_some(_CHUNK)))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            # A batch does not fill the service's memory.
            if len(body) + len(event.data) > BATCH_BYTES:
                raise h11.RemoteProtocolError("a body of more than a batch")
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return request, bytes(body)
        else:
            return None, None


def _decoded(body: bytes | None, encoding: bytes) -> SignedBatch:
    """Return a batch.  Raises RefusedError."""
    data = body or b""
    try:
        if encoding == b"gzip":
            unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
            # A batch is unpacked to its limit alone.
            data = unpack.decompress(data, BATCH_BYTES)
            if unpack.unconsumed_tail or not unpack.eof:
                raise RefusedError("a batch that is too long, or cut off")
        return _batch.decode(data)
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(f"not a batch: {error}") from error


def _certificate(
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
) -> str:
    """The name in the client's certificate, which the context has checked."""
    if not isinstance(stream, trio.SSLStream):
        return ""
    found: dict[str, object] = stream.getpeercert() or {}
    names = found.get("subjectAltName", ())
    if isinstance(names, tuple):
        for kind, name in names:
            if kind == "DNS":
                return str(name)
    subject = found.get("subject", ())
    if isinstance(subject, tuple):
        for part in subject:
            for key, value in part:
                if key == "commonName":
                    return str(value)
    return ""


def server_context(certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
    """TLS 1.3; with ``client_ca`` a client may show a certificate of it.

    Raises SetupError.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate, key or None)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as error:
        raise SetupError(f"the certificates cannot be read: {error}") from error
    return context
