"""The ingest service over HTTP: h11's protocol on trio's sockets."""

from __future__ import annotations

import hmac
import re
import ssl
import zlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import msgspec
import trio

from broker.core.decoding import UNREADABLE
from broker.core.errors import IntegrityError, RefusedError, SetupError, VitrailError
from broker.core.escape import printable
from broker.core.stderr_log import log_exception, log_stderr
from broker.fleet.ingest_database import Credential, IngestStore
from broker.ipc.audit.ingest import BATCH_BYTES, Position, Refusal, SignedBatch
from broker.ipc.in_thread import in_thread

try:
    import h11
except ImportError as _error:
    raise SetupError(
        "the package h11, which the ingest service requires, is not installed",
        hint="install Debian's python3-h11, or in a checkout run: pipx install --force '.[fleet]'",
    ) from _error

_SECONDS = 30.0
"""For a request from its first byte to its last; and a connection may be idle so long."""
_PACE = 65536
"""Bytes a second that a body has to come at, from ten seconds on."""
_CHUNK = 65536
_TAKEN = 200
_SHORT_BYTES = 65536
_POSITION = re.compile(rb"/v1/position/([0-9a-f]{32})")
_batch = msgspec.json.Decoder(SignedBatch)
_Stream: TypeAlias = "trio.SocketStream | trio.SSLStream[trio.SocketStream]"
_Event: TypeAlias = "type[h11.PAUSED | h11.NEED_DATA] | h11.Event"
_T = TypeVar("_T")


@dataclass
class IngestLimits:
    """How much the service does at one time."""

    connections: int = 2000
    """Of enrolled machines."""
    connections_of_one: int = 16
    strangers: int = 500
    """Connections on which no machine has been recognised yet; the oldest is ended."""
    threads: int = 8
    threads_of_one: int = 2
    long_bodies: int = 32
    """Batches that are packed or of more than 64 KiB: 256 MiB of bodies at most."""
    long_bodies_of_one: int = 4
    long_bodies_by_log: int = 4
    """Besides, of all machines that are known by their logs' names alone."""


class IngestServer:
    """Answers machines; one task a connection, the database in threads."""

    def __init__(self, store: IngestStore, limits: IngestLimits) -> None:
        self._store, self._limits = store, limits
        self._threads = trio.CapacityLimiter(limits.threads)
        self._turns = defaultdict[str, trio.CapacityLimiter](
            lambda: trio.CapacityLimiter(limits.threads_of_one)
        )
        """Of enrolled machines; "" for all those that are known by their logs alone."""
        self._long = trio.CapacityLimiter(limits.long_bodies)
        self._long_by_log = trio.CapacityLimiter(limits.long_bodies_by_log)
        self._long_of: Counter[tuple[str, str]] = Counter()
        self._proved: dict[str, str] = {}
        """Tokens of machines that are known by their logs alone: a client that
        sends a new batch signed by the log is taken for the machine until this service ends."""
        self._strangers: OrderedDict[trio.CancelScope, None] = OrderedDict()
        self._machines: dict[trio.CancelScope, str] = {}
        """The connections on which a machine was recognised."""

    async def serve(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        *,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; ``started`` with the port.  Raises OSError."""
        listeners = await trio.open_tcp_listeners(port, host=host or None)
        task_status.started(listeners[0].socket.getsockname()[1])

        async def handle(stream: trio.SocketStream) -> None:
            with trio.CancelScope() as scope:
                self._strangers[scope] = None
                # guard: strangers do not take the machines' connections
                if len(self._strangers) > self._limits.strangers:
                    self._strangers.popitem(last=False)[0].cancel()
                try:
                    await self._connection(stream, context, scope)
                finally:
                    self._strangers.pop(scope, None)
                    self._machines.pop(scope, None)

        await trio.serve_listeners(handle, listeners)

    def _recognise(self, scope: trio.CancelScope, machine: str) -> None:
        """Count a connection of an enrolled machine; end it where it has too many."""
        if scope not in self._strangers:
            return
        del self._strangers[scope]
        others = list(self._machines.values())
        self._machines[scope] = machine
        # guard: a machine has few connections
        if (
            len(others) >= self._limits.connections
            or others.count(machine) >= self._limits.connections_of_one
        ):
            scope.cancel()

    async def _connection(
        self,
        socket: trio.SocketStream,
        context: ssl.SSLContext | None,
        scope: trio.CancelScope,
    ) -> None:
        """Serve one connection: TLS if configured, then its requests."""
        stream: _Stream = socket
        try:
            with trio.fail_after(_SECONDS):
                if context is not None:
                    stream = trio.SSLStream(
                        socket, context, server_side=True, https_compatible=True
                    )
                    await stream.do_handshake()
            await self._requests(stream, _certificate(stream), scope)
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
            # An internal error ends this connection alone.
            log_exception(error)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.aclose_forcefully(stream)

    async def _requests(
        self, stream: _Stream, certificate: str, scope: trio.CancelScope
    ) -> None:
        """Answer the requests of a connection until it ends."""
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=16384)
        while True:
            async with AsyncExitStack() as held:
                with trio.fail_after(_SECONDS):
                    request = await _event(http, stream)
                    if not isinstance(request, h11.Request):
                        return
                    asker = _asker(request, certificate)
                    status, answer = await _tried(self._admit(asker, held, scope))
                    # It is read to its end, so that a machine reads why it is refused.
                    body = await _body(http, stream, keep=status == _TAKEN)
                if status == _TAKEN:
                    status, answer = await _tried(self._in_turn(request, asker, body))
            with trio.fail_after(_SECONDS):
                await _send(http, stream, status, msgspec.json.encode(answer))
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _admit(
        self, asker: _Asker, held: AsyncExitStack, scope: trio.CancelScope
    ) -> None:
        """Reserve room for a machine's request.  Raises RefusedError, UpstreamError."""
        machine = asker.machine
        by_log = await self._in_thread(self._store.by_log, machine, asker.shown)
        # guard: a stranger's batch is neither kept nor unpacked
        if by_log is None:
            raise RefusedError(
                "this machine is not enrolled, or its token or certificate is another one",
                hint="check the token or certificate in the machine's ship.toml; to enrol the "
                "machine, run 'brokerctl audit fleet enrol MACHINE --token --store ADDRESS'",
            )
        # guard: a token that came with a log's new batch is its machine's
        if by_log and asker.shown.token:
            token = self._proved.get(machine, "").encode()
            by_log = not hmac.compare_digest(token, asker.shown.token.encode())
        # guard: a machine's connections count before its work
        if not by_log:
            self._recognise(scope, machine)
            asker.proved = machine
        # guard: a packed batch is a long one
        long = asker.packing or asker.length > _SHORT_BYTES
        if long:
            # guard: who knows a name takes no places of its machine
            place = (machine, asker.proved)
            # guard: a machine has few long bodies at a time
            if self._long_of[place] >= self._limits.long_bodies_of_one:
                raise RefusedError(
                    "too many long batches of this machine are being received"
                )
            self._long_of[place] += 1
            held.callback(self._long_of.subtract, [place])
            self._long_of += Counter()  # without those that have none
            # guard: enrolled machines do not wait behind names that others know
            places = self._long if asker.proved else self._long_by_log
            await held.enter_async_context(places)

    async def _in_turn(
        self, request: h11.Request, asker: _Asker, body: bytes
    ) -> Position:
        # guard: a machine has few threads at a time
        async with self._turns[asker.proved]:
            return await self._do(request, asker, body)

    async def _do(self, request: h11.Request, asker: _Asker, body: bytes) -> Position:
        """Carry out a request: return a log's position, or store a batch."""
        place = _POSITION.fullmatch(request.target)
        store, shown = self._store, asker.shown
        if request.method == b"GET" and place is not None:
            log = place[1].decode()
            return await self._in_thread(store.position, asker.machine, log, shown)
        if request.method == b"POST" and request.target == b"/v1/batch":

            def new(machine: str) -> None:
                self._proved[machine] = shown.token

            return await self._in_thread(
                lambda: store.take(_decoded(body, asker.packing), shown, new)
            )
        raise RefusedError("no such resource")

    async def _in_thread(self, work: Callable[..., _T], *arguments: object) -> _T:
        return await in_thread(work, *arguments, limiter=self._threads)


@dataclass
class _Asker:
    """The client's identity, from the head of its request."""

    machine: str
    """As it calls itself."""
    shown: Credential
    length: int
    """Of the body; the most, if the request does not say it."""
    packing: bytes
    proved: str = ""
    """The machine, where more than its log's name says that it is the one."""


def _asker(request: h11.Request, certificate: str) -> _Asker:
    headers = dict(request.headers)
    token = headers.get(b"authorization", b"").decode("ascii", "replace")
    chunked = b"transfer-encoding" in headers
    return _Asker(
        headers.get(b"vitrail-machine", b"").decode("utf-8", "replace"),
        Credential(token.removeprefix("Bearer "), certificate),
        BATCH_BYTES if chunked else int(headers.get(b"content-length", b"0")),
        headers.get(b"content-encoding", b""),
    )


async def _tried(
    work: Awaitable[Position | None],
) -> tuple[int, Position | Refusal | None]:
    """Return the HTTP status and answer of some work, also of its failure."""
    try:
        return _TAKEN, await work
    except VitrailError as error:
        status, what = 503, ""
        if isinstance(error, RefusedError):
            status, what = 403, "refused: "
        elif isinstance(error, IntegrityError):
            status, what = 409, "conflict: "
        log_stderr(f"vitrail-ingest: {what}{printable(str(error), 300)}")
        if not what:
            return status, Refusal("the store failed; try again")
        return status, Refusal(str(error), error.hint or "")


async def _event(http: h11.Connection, stream: _Stream) -> _Event:
    """Return the next event of the HTTP connection; send 100 Continue if awaited."""
    while (event := _next(http)) is h11.NEED_DATA:
        if http.they_are_waiting_for_100_continue:
            go = h11.InformationalResponse(status_code=100, headers=[])
            await stream.send_all(http.send(go) or b"")
        http.receive_data(bytes(await stream.receive_some(_CHUNK)))
    return event


def _next(http: h11.Connection) -> _Event:
    """Return the parser's next event.  Raises RemoteProtocolError."""
    try:
        return http.next_event()
    except ValueError as error:
        # Of h11 0.14: int() of a Content-Length of thousands of digits.
        raise h11.RemoteProtocolError("a number is too long") from error


async def _body(http: h11.Connection, stream: _Stream, *, keep: bool) -> bytes:
    """Receive a request's body.

    Raises RemoteProtocolError for more than a batch, TooSlowError.
    """
    whole, length = bytearray(), 0
    # guard: a body that does not come frees its place
    with trio.fail_after(_SECONDS / 3) as pace:
        while isinstance(event := await _event(http, stream), h11.Data):
            length += len(event.data)
            pace.deadline += len(event.data) / _PACE
            # A batch does not fill the service's memory.
            if length > BATCH_BYTES:
                raise h11.RemoteProtocolError("the body is larger than a batch")
            if keep:
                whole += event.data
    return bytes(whole)


async def _send(
    http: h11.Connection, stream: _Stream, status: int, data: bytes
) -> None:
    """Send an HTTP response with a JSON body."""
    headers = [("Content-Type", "application/json"), ("Content-Length", f"{len(data)}")]
    for event in (
        h11.Response(status_code=status, headers=headers),
        h11.Data(data=data),
        h11.EndOfMessage(),
    ):
        await stream.send_all(http.send(event) or b"")


def _decoded(data: bytes, encoding: bytes) -> SignedBatch:
    """Decompress (gzip) and decode a batch.  Raises RefusedError."""
    try:
        if encoding == b"gzip":
            unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
            # A batch is unpacked to its limit alone.
            data = unpack.decompress(data, BATCH_BYTES)
            if unpack.unconsumed_tail or not unpack.eof:
                raise RefusedError("the batch is too long, or truncated")
        return _batch.decode(data)
    except (zlib.error, *UNREADABLE) as error:
        raise RefusedError(f"invalid batch: {error}") from error


def _certificate(stream: _Stream) -> str:
    """Return the name in the client's certificate, which the context has checked."""
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
    """Return a context of TLS 1.3; with ``client_ca`` clients may show a certificate.

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
        raise SetupError(f"cannot load certificates or key: {error}") from error
    return context
