"""Messages of D-Bus, as bytes: no socket here (the D-Bus specification, 0.42).

What arrives comes from a program of this guest, through its bus: lengths, types and
depth are checked, since a service that crashes is gone for all of them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from shims.files.protocol import TransferError

if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    BusValue = Any  # text, a number, a list, a dictionary or a tuple, as the type says
MESSAGE_BYTES = 1 << 20
VALUE_DEPTH = 16
CALL, REPLY, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL = 1, 2, 3, 4, 5
DESTINATION, SENDER, SIGNATURE, UNIX_FDS = 6, 7, 8, 9
FIELD_TYPES = {
    **dict.fromkeys((PATH,), "o"),
    **dict.fromkeys((REPLY_SERIAL, UNIX_FDS), "u"),
    SIGNATURE: "g",
}
FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q"}
FIXED.update({"t": "Q", "d": "d", "h": "I"})
ALIGNED = {
    "y": 1,
    "n": 2,
    "q": 2,
    "x": 8,
    "t": 8,
    "d": 8,
    "(": 8,
    "{": 8,
    "g": 1,
    "v": 1,
}


class BusError(TransferError):
    """Not a message of D-Bus."""


class BusMessage:
    """A message: ``fields`` by their number, ``body`` as values."""

    def __init__(
        self,
        kind: int,
        fields: Dict[int, Any],
        signature: str = "",
        body: Tuple[Any, ...] = (),
    ) -> None:
        self.kind = kind
        self.fields = fields
        self.signature = signature
        self.body = body
        self.serial = 0
        self.wants_reply = True
        self.encoded: Tuple[bytes, str] = (b"", "<")
        """The body of a decoded message, and its byte order."""
        self.fds: List[int] = []
        """Descriptors that came with it."""
        self.given: List[int] = []
        """Descriptors of the reply to this call; closed behind it."""
        self.after: List[Callable[[], object]] = []
        """What is done once the reply to this call has been sent."""
        self.work: Optional[Callable[[], Tuple[Any, ...]]] = None
        """What computes the values of the reply in a thread, because it may wait."""

    def text(self, field: int) -> str:
        """Return a header field as text; '' if the message does not have it."""
        return str(self.fields.get(field, ""))

    def typed_body(self) -> Tuple[Any, ...]:
        """Return the body of a decoded message; a variant is a pair of type and value."""
        reader = BusReader(*self.encoded)
        reader.typed = True
        return tuple(reader.value(kind) for kind in split_types(self.signature))


def split_types(signature: str) -> List[str]:
    """Return the complete types of a signature.  Raises BusError."""
    found, rest = [], signature
    while rest:
        size = type_length(rest, 0)
        found.append(rest[:size])
        rest = rest[size:]
    return found


def type_length(text: str, depth: int) -> int:
    """Return the length of the first complete type."""
    if not text or depth > VALUE_DEPTH:
        raise BusError("the signature is nested too deeply or truncated")
    first = text[0]
    if first == "a":
        return 1 + type_length(text[1:], depth + 1)
    if first in "({":
        size, end, values = 1, {"(": ")", "{": "}"}[first], 0
        while text[size : size + 1] != end:
            size += type_length(text[size:], depth + 1)
            values += 1
        # guard: a structure has values, and an entry of a dictionary two
        if not values or (first == "{" and values != 2):
            raise BusError("a structure has the wrong number of values")
        return size + 1
    if first in FIXED or first in "sogv":
        return 1
    raise BusError(f"the signature contains {first!r}")


class BusReader:
    """Values of a message, in order; raises BusError at what cannot be."""

    def __init__(self, data: bytes, order: str) -> None:
        self._data = data
        self._order = order
        self.at = 0
        self.typed = False
        """Whether a variant is a pair of type and value."""

    def align(self, size: int) -> None:
        """Pass over padding."""
        self.at += -self.at % size

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes.  Raises BusError."""
        end = self.at + size
        if end > len(self._data):
            raise BusError("the message is truncated")
        part = self._data[self.at : end]
        self.at = end
        return part

    def number(self, code: str) -> BusValue:
        """Return a value of fixed size."""
        form = self._order + FIXED[code]
        self.align(struct.calcsize(form))
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def value(self, kind: str, depth: int = 0) -> BusValue:
        """Decode a value of the D-Bus type ``kind``.  Raises BusError."""
        if depth > VALUE_DEPTH:
            raise BusError("the values are nested too deeply")
        first = kind[0]
        if first in FIXED:
            return self.number(first)
        if first in "so":
            return self._text(self.number("u"))
        if first == "g":
            return self._text(self.take(1)[0])
        if first == "v":
            inner = split_types(self._text(self.take(1)[0]))
            if len(inner) != 1:
                raise BusError("a variant does not have exactly one type")
            value = self.value(inner[0], depth + 1)
            return (inner[0], value) if self.typed else value
        if first == "a":
            return self._array(kind[1:], depth + 1)
        self.align(8)
        return tuple(self.value(one, depth + 1) for one in split_types(kind[1:-1]))

    def _text(self, size: int) -> str:
        data = self.take(size + 1)
        try:
            return data[:-1].decode()
        except UnicodeDecodeError:
            raise BusError("a string is not valid UTF-8") from None

    def _array(self, kind: str, depth: int) -> BusValue:
        """Parse an array.  Raises BusError."""
        size = self.number("u")
        self.align(ALIGNED.get(kind[0], 4))
        end = self.at + size
        if end > len(self._data):
            raise BusError("an array is truncated")
        found = []
        while self.at < end:
            found.append(self.value(kind, depth))
        if self.at != end:
            raise BusError("an array has the wrong size")
        return dict(found) if kind[0] == "{" else found


class BusWriter:
    """Bytes of values, little-endian."""

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        """Add padding."""
        self.data += bytes(-len(self.data) % size)

    def put(self, kind: str, value: BusValue) -> None:
        """Add a value; a variant is a pair of type and value."""
        first = kind[0]
        if first in FIXED:
            form = "<" + FIXED[first]
            self.align(struct.calcsize(form))
            self.data += struct.pack(form, value)
        elif first in "so":
            encoded = value.encode()
            self.put("u", len(encoded))
            self.data += encoded + b"\0"
        elif first == "g":
            self.data += bytes([len(value)]) + value.encode() + b"\0"
        elif first == "v":
            self.put("g", value[0])
            self.put(*value)
        elif first == "a":
            self._array(kind[1:], value)
        else:
            self.align(8)
            for one, part in zip(split_types(kind[1:-1]), value):
                self.put(one, part)

    def _array(self, kind: str, value: BusValue) -> None:
        """Encode an array with its size."""
        self.put("u", 0)
        place = len(self.data) - 4
        self.align(ALIGNED.get(kind[0], 4))
        start = len(self.data)
        for one in value.items() if isinstance(value, dict) else value:
            self.put(kind, one)
        struct.pack_into("<I", self.data, place, len(self.data) - start)


def encode_message(message: BusMessage, serial: int) -> bytes:
    """Encode a D-Bus message."""
    body = BusWriter()
    for kind, value in zip(split_types(message.signature), message.body):
        body.put(kind, value)
    fields = dict(message.fields)
    if message.signature:
        fields[SIGNATURE] = message.signature
    head = BusWriter()
    for value in (ord("l"), message.kind, 0, 1):
        head.put("y", value)
    head.put("u", len(body.data))
    head.put("u", serial)
    pairs = [(n, (FIELD_TYPES.get(n, "s"), v)) for n, v in sorted(fields.items())]
    head.put("a(yv)", pairs)
    head.align(8)
    return bytes(head.data + body.data)


def message_size(data: bytes) -> Optional[int]:
    """Return the size of the message that begins here; None: more bytes are needed.

    Raises BusError.
    """
    if len(data) < 16:
        return None
    order = {ord("l"): "<", ord("B"): ">"}.get(data[0])
    if order is None or data[3] != 1:
        raise BusError("the data is not a D-Bus message")
    body, _, fields = struct.unpack_from(order + "III", data, 4)
    size = 16 + fields + -fields % 8 + body
    if size > MESSAGE_BYTES:
        raise BusError(f"the message has {size} bytes, more than the limit")
    return int(size)


def decode_message(data: bytes) -> BusMessage:
    """Decode a complete D-Bus message.  Raises BusError."""
    order = "<" if data[0] == ord("l") else ">"
    reader = BusReader(data, order)
    reader.at = 12
    try:
        fields = dict(reader.value("a(yv)"))
        reader.align(8)
        signature = str(fields.get(SIGNATURE, ""))
        encoded = data[reader.at :], order
        inside = BusReader(*encoded)
        body = tuple(inside.value(kind) for kind in split_types(signature))
    except TypeError:  # a dictionary whose keys are arrays
        raise BusError("a dictionary has an invalid key") from None
    message = BusMessage(data[1], fields, signature, body)
    message.encoded = encoded
    message.serial = struct.unpack_from(order + "I", data, 8)[0]
    message.wants_reply = not data[2] & 1
    return message
