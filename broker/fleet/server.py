"""The ingest service over HTTP: h11's protocol on trio's sockets."""

from __future__ import annotations

import re
import ssl
import zlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

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
_TAKEN = 200
_SHORT_BYTES = 65536
_POSITION = re.compile(rb"/v1/position/([0-9a-f]{32})")
_batch = msgspec.json.Decoder(SignedBatch)


@dataclass
class IngestLimits:
    """How much at once."""

    connections: int = 2000
    """Of enrolled machines."""
    connections_of_one: int = 16
    strangers: int = 500
    """Connections on which no machine has been recognised yet; the oldest is ended."""
    threads: int = 8
    long_bodies: int = 32
    """Bodies of more than 64 KiB in memory: 256 MiB at most."""
    long_bodies_of_one: int = 4


class IngestServer:
    """Answers machines; one task a connection, the database in threads."""

    def __init__(self, store: IngestStore, limits: IngestLimits) -> None:
        self._store, self._limits = store, limits
        self._threads = trio.CapacityLimiter(limits.threads)
        self._long = trio.CapacityLimiter(limits.long_bodies)
        self._long_of: Counter[str] = Counter()
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
        """Serve until cancelled; reports the port.  Raises OSError."""
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
        """Note that a connection is an enrolled machine's; end it where it has many."""
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
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = socket
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
            # A fault of ours ends this connection alone.
            log_exception(error)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.aclose_forcefully(stream)

    async def _requests(
        self,
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        certificate: str,
        scope: trio.CancelScope,
    ) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=16384)
        while True:
            machine = ""
            async with AsyncExitStack() as held:

                async def long_body(request: h11.Request) -> None:
                    await self._admit(request, certificate)
                    held.enter_context(self._long_body_of(request, certificate))
                    await held.enter_async_context(self._long)

                try:
                    with trio.fail_after(_SECONDS):
                        request, body = await _request(http, stream, _Body(long_body))
                    if request is None:
                        return
                    status, answer = await self._answer(request, body, certificate)
                    machine, _ = _asker(request, certificate)
                except RefusedError as error:
                    status, answer = 403, _refused(error)
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
            if status == _TAKEN:
                self._recognise(scope, machine)
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    @contextmanager
    def _long_body_of(self, request: h11.Request, certificate: str) -> Iterator[None]:
        """Count a long body of a machine.  Raises RefusedError where it has many."""
        machine, _ = _asker(request, certificate)
        # guard: a machine has few long bodies at a time
        if self._long_of[machine] >= self._limits.long_bodies_of_one:
            raise RefusedError("other batches of this machine are being read")
        self._long_of[machine] += 1
        try:
            yield
        finally:
            self._long_of[machine] -= 1
            self._long_of += Counter()  # without those that have none

    async def _admit(self, request: h11.Request, certificate: str) -> None:
        """Raise RefusedError for a long or packed body of someone who is not enrolled."""
        machine, shown = _asker(request, certificate)
        knows = partial(self._store.knows, machine, shown)
        # guard: a long body is an enrolled machine's
        if not await trio.to_thread.run_sync(knows, limiter=self._threads):
            raise RefusedError("this machine is not enrolled")

    async def _answer(
        self, request: h11.Request, body: bytes | None, certificate: str
    ) -> tuple[int, Position | Refusal]:
        headers = dict(request.headers)
        machine, shown = _asker(request, certificate)
        place = _POSITION.fullmatch(request.target)
        try:
            if request.method == b"GET" and place is not None:
                return _TAKEN, await self._in_thread(
                    self._store.position, machine, place[1].decode(), shown
                )
            if request.method == b"POST" and request.target == b"/v1/batch":
                # A short one may be unpacked to the longest; a long one was admitted.
                # guard: a stranger's batch is not unpacked
                if len(body or b"") <= _SHORT_BYTES:
                    await self._admit(request, certificate)
                packing = headers.get(b"content-encoding", b"")
                return _TAKEN, await self._in_thread(self._take, body, packing, shown)
        except RefusedError as error:
            return 403, _refused(error)
        except IntegrityError as error:
            log_stderr(f"vitrail-ingest: conflict: {printable(str(error), 300)}")
            return 409, Refusal(str(error), error.hint or "")
        except VitrailError as error:
            log_stderr(f"vitrail-ingest: {printable(str(error), 300)}")
            return 503, Refusal("the store fails; come again")
        return 404, Refusal("there is no such thing here")

    def _take(self, body: bytes | None, packing: bytes, shown: Credential) -> Position:
        return self._store.take(_decoded(body, packing), shown)

    async def _in_thread(self, function, *arguments) -> Position:  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002
        found = await trio.to_thread.run_sync(
            function, *arguments, limiter=self._threads
        )
        assert isinstance(found, Position)
        return found


def _asker(request: h11.Request, certificate: str) -> tuple[str, Credential]:
    """The name that a machine claims, and the proof that it shows."""
    headers = dict(request.headers)
    token = headers.get(b"authorization", b"").decode("ascii", "replace")
    machine = headers.get(b"vitrail-machine", b"").decode("utf-8", "replace")
    return machine, Credential(token.removeprefix("Bearer "), certificate)


def _refused(error: RefusedError) -> Refusal:
    log_stderr(f"vitrail-ingest: refused: {printable(str(error), 300)}")
    return Refusal(str(error), error.hint or "")


class _Body:
    """A request's body as it comes; ``long`` makes room for one that is long."""

    def __init__(self, long: Callable[[h11.Request], Awaitable[None]]) -> None:
        self._make_room = long
        self._bytes = bytearray()
        self._length = 0
        self._asked = False
        self._refused: RefusedError | None = None

    async def add(self, request: h11.Request | None, data: bytes) -> None:
        """Raise RemoteProtocolError for more than a batch."""
        self._length += len(data)
        # A batch does not fill the service's memory.
        if self._length > BATCH_BYTES:
            raise h11.RemoteProtocolError("a body of more than a batch")
        # Nor do many that are sent slowly.
        if request and not self._asked and self._length > _SHORT_BYTES:
            self._asked = True
            try:
                await self._make_room(request)
            except RefusedError as error:
                # It is read to its end, so that the machine reads the answer.
                self._refused = error
                self._bytes.clear()
        if self._refused is None:
            self._bytes += data

    def whole(self) -> bytes:
        """Return it; raises RefusedError where there was no room."""
        if self._refused is not None:
            raise self._refused
        return bytes(self._bytes)


async def _request(
    http: h11.Connection,
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
    body: _Body,
) -> tuple[h11.Request | None, bytes | None]:
    """The next request and its body."""
    request: h11.Request | None = None
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
            await body.add(request, bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return request, body.whole()
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
