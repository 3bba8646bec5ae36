"""The Wayland wire: messages in bytes, descriptors beside them.

A message is ``u32 object, u16 opcode, u16 size`` in the machine's byte order,
then its arguments in words of four bytes (wayland.freedesktop.org, "Wire
Format").  Descriptors travel beside the bytes and belong to messages by their
order alone, so a proxy must count them exactly.

The worker runs it; the keeper only encodes the few requests for a security context.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from broker.core.errors import InternalError, PeerError

if TYPE_CHECKING:
    from broker.jail.wayland.protocol.signatures import MessageSignature

HEADER = struct.Struct("=IHH")
"""Object id, opcode, size in bytes with the header."""

MAX_MESSAGE = 4096
"""Bytes: libwayland's own buffer; a compositor disconnects for more."""

SERVER_IDS = 0xFF000000
"""First object id that the server side hands out (wl_display, "Object IDs")."""

_WORD = struct.Struct("=I")
_ZEROS = b"\0\0\0\0"

Fd = Any
"""A descriptor as the shell represents it.  The core passes it on or gives it
back to be closed, and never looks inside."""


class UnfinishedError(Exception):
    """A message's work is not done yet: it is read again, from its beginning."""


class ProtocolFault(PeerError):  # noqa: N818 - the protocol says "fault" and "error" for two things
    """A client broke the protocol; becomes ``wl_display.error`` for it alone.

    ``object_id`` is the client's id of the object, ``code`` the error number
    of that object's interface, as the protocol's text defines it.
    """

    def __init__(self, object_id: int, code: int, message: str) -> None:
        super().__init__(message)
        self.object_id = object_id
        self.code = code


# Codes of wl_display.error itself.
INVALID_OBJECT = 0
INVALID_METHOD = 1
NO_MEMORY = 2
IMPLEMENTATION = 3


def bad_message(object_id: int, message: str) -> ProtocolFault:
    """A message that does not parse, or an argument that cannot be."""
    return ProtocolFault(object_id, INVALID_METHOD, message)


def internal(error: Exception) -> InternalError:
    """Return the internal error that some input caused; it ends this connection only.

    Other connections of the sandbox live in the same process, and an
    application that stumbles on our mistake must not take them along.
    """
    if isinstance(error, InternalError):
        return error
    internal = InternalError(
        f"the Wayland filter failed: {type(error).__name__}: {error}"
    )
    internal.__cause__ = error
    return internal


class Outgoing:
    """Bytes and descriptors on their way to one side, in order.

    ``data`` is appended to directly by hot paths.  A descriptor is sent with
    the first byte of its message, never earlier.
    """

    __slots__ = ("_marks", "data", "fd_count")

    def __init__(self) -> None:
        self.data = bytearray()
        self._marks: deque[tuple[int, list[Fd]]] = deque()
        self.fd_count = 0

    def add(self, message: bytes, fds: Sequence[Fd] = ()) -> None:
        """Queue one whole message with its descriptors."""
        if fds:
            self._marks.append((len(self.data), list(fds)))
            self.fd_count += len(fds)
        self.data += message

    def front(self) -> tuple[memoryview, list[Fd]]:
        """Return the bytes for one sendmsg, and the descriptors with them."""
        marks = self._marks
        if not marks:
            return memoryview(self.data), []
        offset, fds = marks[0]
        if offset:
            return memoryview(self.data)[:offset], []
        end = marks[1][0] if len(marks) > 1 else len(self.data)
        return memoryview(self.data)[:end], fds

    def sent(self, count: int) -> list[Fd]:
        """Drop ``count`` sent bytes (at least 1); return the descriptors to close."""
        done: list[Fd] = []
        if self._marks:
            if self._marks[0][0] == 0:
                done = self._marks.popleft()[1]
                self.fd_count -= len(done)
            self._marks = deque((at - count, fds) for at, fds in self._marks)
        del self.data[:count]
        return done

    def drain_fds(self) -> list[Fd]:
        """Discard all queued bytes; return the queued descriptors, for closing."""
        fds = [fd for _, some in self._marks for fd in some]
        self._marks.clear()
        self.fd_count = 0
        self.data.clear()
        return fds


def pack_string(text: bytes | None) -> bytes:
    """A string argument: length with its NUL, bytes, NUL, padding."""
    if text is None:
        return _ZEROS
    size = len(text) + 1
    return _WORD.pack(size) + text + b"\0" * (4 - (size - 1) % 4)


def pack_array(data: bytes) -> bytes:
    """An array argument: length, bytes, padding."""
    return _WORD.pack(len(data)) + data + b"\0" * (-len(data) % 4)


def writer(message: MessageSignature) -> Callable[..., bytes]:
    """Return a function that encodes this message, faster than ``encode``."""
    opcode = message.opcode
    plan: list[tuple[Callable[..., bytes], int, bool | None]] = []
    letters, count = "=", 0
    for kind in message.kinds:
        if kind in "sa":
            if count:
                plan.append((struct.Struct(letters).pack, count, None))
            plan.append((_WORD.pack, 1, kind == "s"))
            letters, count = "=", 0
        else:
            letters, count = letters + ("i" if kind in "if" else "I"), count + 1
    if count:
        plan.append((struct.Struct(letters).pack, count, None))
    wanted = len(message.kinds)
    head = HEADER.pack

    def write(object_id: int, *args: Any) -> bytes:  # noqa: ANN401
        if len(args) != wanted:
            raise TypeError(f"{message} has {wanted} arguments, not {len(args)}")
        body, at = b"", 0
        for pack, count, text in plan:
            if text is None:
                body += pack(*args[at : at + count])
            else:
                body += pack_string(args[at]) if text else pack_array(args[at])
            at += count
        return head(object_id, opcode, len(body) + 8) + body

    return write


def encode(object_id: int, opcode: int, kinds: str, args: Sequence[Any]) -> bytes:
    """Encode a message.  ``kinds`` has a letter for each argument that is bytes.

    Objects and new ids are numbers here; ``h`` is not written at all.
    """
    parts: list[bytes] = []
    for kind, value in zip(kinds, args, strict=True):
        if kind in "iuf":
            parts.append(_WORD.pack(value & 0xFFFFFFFF))
        elif kind in "on":
            parts.append(_WORD.pack(value))
        elif kind == "s":
            parts.append(pack_string(value))
        else:
            parts.append(pack_array(value))
    body = b"".join(parts)
    return HEADER.pack(object_id, opcode, len(body) + 8) + body


def decode(
    message: MessageSignature, untrusted_data: bytes | bytearray, start: int, end: int
) -> list[Any]:
    """Return a message's arguments; ``h`` gives None, ids stay numbers.

    Strings come as bytes without NUL and are known to be UTF-8.  Raises
    ValueError when the arguments do not fill the message exactly.
    """
    return reader(message)(bytes(untrusted_data), start, end)


Reader = Callable[[bytes, int, int], list[Any]]
"""``read(untrusted_data, start, end)``: as ``decode`` of one message."""


def _runs(
    message: MessageSignature,
) -> tuple[list[tuple[struct.Struct, Any]], list[int]]:
    """Group a message's arguments into runs of words, for fast decoding.

    With each run the string or array that it ends in (None: the last run),
    and where descriptors stand, which take no bytes.
    """
    runs: list[tuple[struct.Struct, Any]] = []
    letters = "="
    for argument in message.args:
        if argument.kind != "h":
            letters += "i" if argument.kind in "if" else "I"
        if argument.kind in "sa":
            runs.append((struct.Struct(letters), argument))
            letters = "="
    if letters != "=":
        runs.append((struct.Struct(letters), None))
    return runs, [i for i, a in enumerate(message.args) if a.kind == "h"]


@cache
def reader(message: MessageSignature) -> Reader:
    """Return a function that decodes this message, as ``decode`` does any."""
    runs, holes = _runs(message)
    plan = [
        (run.unpack_from, run.size, a is not None, a is not None and a.kind == "s", a is not None and a.nullable)
        for run, a in runs
    ]  # fmt: skip

    def read(untrusted_data: bytes, start: int, end: int) -> list[Any]:
        args: list[Any] = []
        for unpack, size, more, text, nullable in plan:
            if start + size > end:
                raise ValueError("too short")
            args += unpack(untrusted_data, start)
            start += size
            if more:
                length = args[-1]
                stop = start + length
                if stop > end:
                    raise ValueError("a string or array extends beyond its message")
                raw = untrusted_data[start:stop]
                args[-1] = _string(raw, nullable=nullable) if text else raw
                start = stop + (-length % 4)
        if start != end:
            raise ValueError(
                f"{end - start} bytes too long" if start < end else "too short"
            )
        for i in holes:
            args.insert(i, None)
        return args

    return read


def _string(raw: bytes, *, nullable: bool) -> bytes | None:
    """Check a string's form; return its text.  Raises ValueError."""
    if not raw:
        if nullable:
            return None
        raise ValueError("a null string where a string is required")
    text = raw[:-1]
    # guard: string form
    if raw[-1] or 0 in text:
        raise ValueError("a string is not terminated, or contains a NUL")
    text.decode("utf-8")  # UnicodeDecodeError is a ValueError
    return text
