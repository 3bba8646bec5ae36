"""CBOR as CTAP2 permits it (CTAP 2.1, 8 Message Encoding), decoded strictly.

Shortest lengths, definite lengths, no tags, no floating point, no key twice, at
most four levels.  What two decoders could read in two ways is refused: the key
would act on another relying party than the user was asked about.

The process of a security key runs it, not the worker.
"""

from __future__ import annotations

from typing import TypeAlias

from broker.core.errors import PeerError

Value: TypeAlias = (
    "int | bytes | str | bool | list[Value] | dict[int | str | bytes, Value] | None"
)

_DEPTH = 4
_SHORT = {24: 1, 25: 2, 26: 4, 27: 8}
_SIMPLE: dict[int, bool | None] = {20: False, 21: True, 22: None}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise PeerError("the CBOR data is truncated")
        self.at += size
        return self.data[self.at - size : self.at]

    def argument(self, info: int) -> int:
        """Read the argument of an item's head."""
        if info < 24:
            return info
        size = _SHORT.get(info)
        if size is None:
            raise PeerError("the CBOR data has an indefinite length")
        value = int.from_bytes(self.take(size), "big")
        least = 24 if size == 1 else 1 << 8 * (size // 2)
        # guard: CBOR in its shortest form
        if value < least:
            raise PeerError("a CBOR integer is not in its shortest form")
        return value

    def value(self, depth: int) -> Value:
        """Read one item with all in it.  Raises PeerError."""
        if depth > _DEPTH:
            raise PeerError(f"the CBOR data has more than {_DEPTH} levels")
        first = self.take(1)[0]
        kind, info = first >> 5, first & 31
        if kind == 7:
            if info not in _SIMPLE:
                raise PeerError("the CBOR data has a type that CTAP does not use")
            return _SIMPLE[info]
        number = self.argument(info)
        match kind:
            case 0:
                return number
            case 1:
                return -1 - number
            case 2:
                return self.take(number)
            case 3:
                return self.text(number)
            case 4:
                self.fits(number)
                return [self.value(depth + 1) for _ in range(number)]
            case 5:
                return self.map(number, depth)
            case _:
                raise PeerError("the CBOR data has a tag")

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise PeerError("a CBOR text string is not valid UTF-8") from error

    def fits(self, count: int) -> None:
        """Each element has a byte at least: no list of a billion is begun."""
        if count > len(self.data) - self.at:
            raise PeerError("the CBOR data is truncated")

    def map(self, count: int, depth: int) -> Value:
        """Read the pairs of a map.  Raises PeerError."""
        self.fits(2 * count)
        found: dict[int | str | bytes, Value] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if isinstance(key, bool) or not isinstance(key, int | str | bytes):
                raise PeerError("a CBOR map has an invalid key")
            # guard: CBOR keys once
            if key in found:
                raise PeerError("a CBOR map has a duplicate key")
            found[key] = self.value(depth + 1)
        return found


def decode(untrusted_bytes: bytes) -> Value:
    """Decode one CBOR value, with nothing after it.  Raises PeerError."""
    reader = _Reader(untrusted_bytes)
    value = reader.value(1)
    if reader.at != len(untrusted_bytes):
        raise PeerError("the CBOR value is followed by other data")
    return value


def encode(value: Value) -> bytes:
    """Return the shortest bytes of a value; keys of maps keep their order."""
    if value is None or isinstance(value, bool):
        return bytes([0xE0 | next(k for k, v in _SIMPLE.items() if v is value)])
    match value:
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            text = value.encode()
            return _head(3, len(text)) + text
        case list():
            return _head(4, len(value)) + b"".join(map(encode, value))
        case _:
            pairs = (encode(k) + encode(v) for k, v in value.items())
            return _head(5, len(value)) + b"".join(pairs)


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes([kind << 5 | number])
    info, size = next((i, s) for i, s in _SHORT.items() if number < 1 << 8 * s)
    return bytes([kind << 5 | info]) + number.to_bytes(size, "big")
