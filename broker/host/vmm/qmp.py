"""QMP, QEMU's control protocol: a sans-IO codec and a thin trio client.

Lines of JSON (QEMU's ``docs/interop/qmp-spec``): a greeting, then answers
that repeat the ``id`` of a command, and events at any time between them.

QEMU is trusted to start with, and holds a hostile guest: a guest that breaks
out of its devices speaks here.  So its output is bounded, decoded into types
and never used as a path or a command.

The host's connections to QEMU run it.
"""

from __future__ import annotations

import array
import itertools
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
import trio

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.core.token_bucket import TokenBucket
from broker.host.processes.ready import open_stream

Json: TypeAlias = str | int | float | bool | list["Json"] | Mapping[str, "Json"] | None
_Text = Annotated[str, msgspec.Meta(max_length=2000)]


class Greeting(msgspec.Struct, frozen=True):
    """The first line of a connection; its content is of no use to us."""

    QMP: dict[str, object]


class QmpEvent(msgspec.Struct, frozen=True, rename={"name": "event"}):
    """Something that happened in the machine, as ``SHUTDOWN``."""

    name: _Text
    data: dict[str, object] = {}


class _Fault(msgspec.Struct, frozen=True, rename={"kind": "class"}):
    kind: _Text
    desc: _Text


class QmpFailed(msgspec.Struct, frozen=True):
    """The answer to a command that QEMU did not carry out.

    ``id`` is missing only where QEMU could not read the line at all.
    """

    error: _Fault
    id: int | None = None


class Answered(msgspec.Struct, frozen=True, rename={"value": "return"}):
    """The answer to a command; ``value`` is as the command's page says."""

    value: object
    id: int


Message = Greeting | QmpEvent | QmpFailed | Answered

_KEYS: Mapping[str, type[Message]] = {
    "QMP": Greeting,
    "event": QmpEvent,
    "error": QmpFailed,
    "return": Answered,
}


class QmpError(UpstreamError):
    """QEMU refused a command.  ``kind`` is its error class, ``desc`` its words."""

    def __init__(self, command: str, untrusted_kind: str, untrusted_desc: str) -> None:
        self.kind = printable(untrusted_kind, 60)
        self.desc = printable(untrusted_desc)
        super().__init__(f"QEMU rejected {command}: {self.desc}")


class QmpReader:
    """Splits QEMU's bytes into messages; never holds more than one line."""

    def __init__(self, limit: int = limits.QMP_LINE_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, untrusted_data: bytes) -> list[Message]:
        """Return the messages completed by this data, oldest first.

        Raises UpstreamError for a line that is beyond the limit or not a
        QMP message; the connection cannot be read on after that.
        """
        # The buffer has no line end: only new data is searched.
        first, *more = untrusted_data.split(b"\n")
        self._buffer += first
        if max(len(self._buffer), *map(len, more), 0) > self._limit:
            raise UpstreamError(f"QEMU sent a line longer than {self._limit} bytes")
        if not more:
            return []
        lines = [bytes(self._buffer), *more[:-1]]
        self._buffer = bytearray(more[-1])
        return [_decode(line) for line in lines if line.strip()]


def _decode(untrusted_line: bytes) -> Message:
    """Decode a QMP line.  Raises UpstreamError."""
    try:
        untrusted_object = msgspec.json.decode(untrusted_line, type=dict[str, object])
        found = [kind for key, kind in _KEYS.items() if key in untrusted_object]
        if len(found) == 1:
            return msgspec.convert(untrusted_object, found[0])
    except UNREADABLE as error:
        raise UpstreamError(f"QEMU sent an invalid QMP message: {error}") from error
    raise UpstreamError(
        f"QEMU sent an invalid QMP message: {printable(untrusted_line, 120)}"
    )


def encode_command(
    command: str, number: int, arguments: Mapping[str, Json] | None = None
) -> bytes:
    """Encode a QMP command as one line of JSON."""
    line: dict[str, object] = {"execute": command, "id": number}
    if arguments:
        line["arguments"] = dict(arguments)
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


class Qmp:
    """A connection to one QEMU.  ``run`` must be running for it to work.

    ``events`` receives every event; when no task takes them they are dropped,
    because a guest can cause events and must not be able to stop our answers.
    ``on_event`` is called for each, before.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        *,
        on_event: Callable[[QmpEvent], None] | None = None,
    ) -> None:
        self._stream = stream
        self._reader = QmpReader()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel[QmpFailed | Answered]] = {}
        self._sending = trio.Lock()
        self._rest = b""
        """Of the line that was sent last."""
        self._on_event = on_event
        self._put: trio.MemorySendChannel[QmpEvent]
        self._put, self.events = trio.open_memory_channel[QmpEvent](limits.QMP_EVENTS)
        self._closed = False
        self._pace = TokenBucket(limits.QMP_BYTES_PER_SECOND, limits.QMP_BURST_BYTES)
        self._early = 0.0
        """Seconds that the last bytes came too early."""

    async def negotiate(self) -> None:
        """Read QMP's greeting and enable capabilities; called before ``run``.

        Raises UpstreamError when QEMU does not answer in time or not as QMP.
        """
        with _patience("the QMP greeting", limits.QMP_GREETING_SECONDS):
            await self._next_of(Greeting)
            try:
                await self._stream.send_all(encode_command("qmp_capabilities", 0))
            # guard: a monitor that greets and hangs up is QEMU's fault
            except trio.BrokenResourceError as error:
                raise UpstreamError("QEMU closed the monitor connection") from error
            await self._next_of(Answered)

    async def _next_of(self, wanted: type[Message]) -> None:
        """Receive messages until a message of a kind; take events meanwhile."""
        while True:
            for message in await self._receive():
                if isinstance(message, wanted):
                    return
                if isinstance(message, QmpEvent):
                    self._take_event(message)
                else:
                    raise UpstreamError("QEMU's monitor sent an unexpected message")

    async def _receive(self) -> list[Message]:
        """Receive bytes of QEMU.  Raises UpstreamError at its end."""
        try:
            untrusted_data = await self._stream.receive_some(limits.QMP_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise UpstreamError("QEMU's monitor connection was lost") from error
        if not untrusted_data:
            raise UpstreamError("QEMU closed the monitor connection")
        self._early = self._pace.take(trio.current_time(), len(untrusted_data))
        return self._reader.feed(bytes(untrusted_data))

    async def run(self) -> None:
        """Deliver QMP answers and events until the connection ends.

        Raises UpstreamError with the way it ended, always; commands that
        wait then fail too, and so do later ones.
        """
        try:
            while True:
                messages = await self._receive()
                for message in messages:
                    self._take(message)
                # A QEMU that was taken over sends events without end, and the broker
                # has one thread: reading them all would leave none of it for others.
                # guard: a flood of a monitor is read slowly
                await trio.sleep(self._early)
        finally:
            self._closed = True
            self._put.close()
            for waiting in self._waiting.values():
                waiting.close()
            self._waiting.clear()
            await trio.aclose_forcefully(self._stream)

    async def close(self) -> None:
        """Let go of a connection whose ``run`` was never begun."""
        self._closed = True
        self._put.close()
        await trio.aclose_forcefully(self._stream)

    def _take(self, message: Message) -> None:
        """Dispatch one message of QEMU to its event handler or to the waiting call."""
        match message:
            case QmpEvent():
                self._take_event(message)
            case Answered() | QmpFailed():
                waiting = self._waiting.pop(message.id or 0, None)
                if waiting is not None:  # else no task waits for it any more
                    with suppress(trio.BrokenResourceError):
                        waiting.send_nowait(message)
            case Greeting():
                raise UpstreamError("QEMU sent the QMP greeting twice")

    def _take_event(self, event: QmpEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)
        # The other error: the owner wants no events.
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._put.send_nowait(event)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Json] | None = None,
        *,
        deadline: float = limits.QMP_ANSWER_SECONDS,
        fds: tuple[int, ...] = (),
    ) -> object:
        """Run a command and return what QEMU returns.

        ``fds`` are passed along with it (``add-fd``); they stay the caller's.

        Raises QmpError when QEMU refuses it, UpstreamError when the
        connection ends or no answer comes within ``deadline`` seconds.  The
        returned value comes from QEMU: check it before use.
        """
        number = next(self._numbers)
        put, take = trio.open_memory_channel[QmpFailed | Answered](1)
        with _patience(f"the answer to {command}", deadline):
            if self._closed:
                raise UpstreamError(f"QEMU is no longer running ({command})")
            self._waiting[number] = put
            try:
                await self._send(encode_command(command, number, arguments), fds)
                answer = await take.receive()
            except (
                trio.EndOfChannel,
                trio.BrokenResourceError,
                trio.ClosedResourceError,
            ) as error:
                raise UpstreamError(f"QEMU is no longer running ({command})") from error
            finally:
                self._waiting.pop(number, None)
        if isinstance(answer, QmpFailed):
            raise QmpError(command, answer.error.kind, answer.error.desc)
        return answer.value

    async def _send(self, line: bytes, fds: tuple[int, ...]) -> None:
        """Send one command line to QEMU, with its descriptors."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        async with self._sending:
            try:
                await self._send_rest()
                sent = await self._stream.socket.sendmsg([line], [rights] * bool(fds))
                self._rest = line[sent:]
                await self._send_rest()
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    async def _send_rest(self) -> None:
        # guard: a command that is given up half-way is sent whole before the next one
        while self._rest:
            self._rest = self._rest[await self._stream.socket.send(self._rest) :]


def fdset_of(found: object) -> int:
    """Return the number in QEMU's answer to ``add-fd``.  Raises UpstreamError."""
    if isinstance(found, dict):
        number = found.get("fdset-id")
        if isinstance(number, int) and number >= 0:
            return number
    raise UpstreamError("QEMU did not report the number of the new descriptor set")


@contextmanager
def _patience(what: str, seconds: float) -> Iterator[None]:
    """``trio.fail_after`` with our error."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise UpstreamError(f"QEMU did not send {what} within {seconds:g} s")


async def open_qmp(
    path: Path, *, on_event: Callable[[QmpEvent], None] | None = None
) -> Qmp:
    """Connect to a monitor socket and negotiate; the caller starts ``run``.

    Raises UpstreamError when QEMU is not there or does not answer.
    """
    try:
        stream = await open_stream(path)
    except OSError as error:
        raise UpstreamError(f"cannot connect to QEMU at {path}: {error}") from error
    qmp = Qmp(stream, on_event=on_event)
    try:
        await qmp.negotiate()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return qmp
