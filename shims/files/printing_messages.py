"""Messages of the Internet Printing Protocol: decode requests, encode answers.

Sources: RFC 8010 (encoding) and RFC 8011 (attributes and operations).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO, Dict, List, Sequence, Tuple, Union

    IppValue = Union[bool, int, str, Tuple[int, ...], "Dict[str, IppRow]"]
    IppRow = Tuple[int, Sequence[IppValue]]
    IppRows = Dict[str, IppRow]

IPP_OPERATION, IPP_JOB, IPP_END, IPP_PRINTER = 1, 2, 3, 4
NO_VALUE, INTEGER, BOOLEAN, ENUM = 0x13, 0x21, 0x22, 0x23
RESOLUTION, RANGE, COLLECTION, END_COLLECTION = 0x32, 0x33, 0x34, 0x37
TEXT, NAME, KEYWORD, URI, CHARSET, LANGUAGE, MIME, MEMBER_NAME = (
    *(0x41, 0x42, 0x44, 0x45, 0x47, 0x48, 0x49),
    0x4A,
)
IPP_BYTES = 1 << 18  # of the attributes of a request


class IppError(Exception):
    """A request that is no message of IPP."""


class IppRequest:
    """A request: what it asks for, and its operation attributes."""

    def __init__(self, untrusted_source: IO[bytes]) -> None:
        """Read up to the end of the attributes, where a document begins.

        Raises IppError.
        """
        self._source = untrusted_source
        self._left = IPP_BYTES
        self.major, self.minor, self.operation, self.number = struct.unpack(
            ">BBHI", self._take(8)
        )
        self.values: Dict[str, List[bytes]] = {}
        group, name = 0, ""
        while True:
            tag = self._take(1)[0]
            if tag == IPP_END:
                return
            if tag < 0x10:
                group = tag
                continue
            name = self._text() or name
            value = self._take(self._size())
            if group == IPP_OPERATION and len(self.values) < 64:
                self.values.setdefault(name, []).append(value)

    def _take(self, size: int) -> bytes:
        """Read so many bytes.  Raises IppError."""
        self._left -= size
        if self._left < 0:
            raise IppError("the request is too long")
        data = self._source.read(size)
        if len(data) < size:
            raise IppError("the request is truncated")
        return data

    def _size(self) -> int:
        return int.from_bytes(self._take(2), "big")

    def _text(self) -> str:
        return self._take(self._size()).decode("utf-8", "replace")

    def words(self, name: str) -> List[str]:
        """Return an attribute's values as text."""
        return [one.decode("utf-8", "replace") for one in self.values.get(name, [])]

    def word(self, name: str) -> str:
        """Return an attribute's first value as text; "" without one."""
        return (self.words(name) or [""])[0]

    def integer(self, name: str) -> int:
        """Return an attribute's first value as a number; 0 without one."""
        value = (self.values.get(name) or [b""])[0]
        return struct.unpack(">i", value)[0] if len(value) == 4 else 0


def encode_answer(
    request: IppRequest,
    code: int,
    groups: Sequence[Tuple[int, IppRows]],
    words: str = "",
) -> bytes:
    """Encode the answer to a request; ``words`` say why it failed."""
    about: IppRows = {
        "attributes-charset": (CHARSET, ["utf-8"]),
        "attributes-natural-language": (LANGUAGE, ["en"]),
    }
    if words:
        about["status-message"] = (TEXT, [words[:250]])
    version = (request.major, request.minor) if 1 <= request.major <= 2 else (2, 0)
    parts = [struct.pack(">BBHI", *version, code, request.number)]
    for tag, rows in [(IPP_OPERATION, about), *groups]:
        parts.append(bytes([tag]))
        parts += [_encode_row(name, row) for name, row in rows.items()]
    return b"".join([*parts, bytes([IPP_END])])


def _encode_row(name: str, row: IppRow) -> bytes:
    tag, values = row
    parts = []
    for value in values:
        parts.append(_field(tag, name.encode(), _encode_value(tag, value)))
        if isinstance(value, dict):
            for member, inner in value.items():
                parts.append(_field(MEMBER_NAME, b"", member.encode()))
                parts.append(_encode_row("", inner))
            parts.append(_field(END_COLLECTION, b"", b""))
        name = ""
    return b"".join(parts)


def _field(tag: int, name: bytes, value: bytes) -> bytes:
    size = struct.pack(">BH", tag, len(name))
    return size + name + struct.pack(">H", len(value)) + value


def _encode_value(tag: int, value: IppValue) -> bytes:
    if isinstance(value, dict) or tag == NO_VALUE:
        return b""
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, tuple):
        *numbers, last = value
        form = ">iib" if tag == RESOLUTION else ">ii"
        return struct.pack(form, *numbers, last)
    return struct.pack(">?" if tag == BOOLEAN else ">i", value)
