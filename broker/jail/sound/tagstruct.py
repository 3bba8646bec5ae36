"""Tagstructs: the typed fields of a command, to values and back.

Each field begins with a letter that says its type.  ``decode`` takes exactly
what a signature names, to the last byte; ``encode`` is its inverse.  Letters
are the protocol's, and some of ours:

====  =====================================================================
L B   number of 32, of 8 bits           t     text, never null
b     ours: truth (``1`` or ``0``)      s     ours: text or null (``t``, ``N``)
U R   microseconds, number of 64 bits   r     signed number of 64 bits
V     volume                            T     time of day (seconds, microseconds)
a     sample specification              m v   channel map, channel volumes
x     bytes                             P     property list
f     format                            F k   ours: counted formats; texts to null
====  =====================================================================

Source: PulseAudio's ``pulsecore/tagstruct.h``.

The worker runs it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from broker.core.errors import InternalError, PeerError
from broker.core.limits import sound as limits

_U32 = struct.Struct(">I")
_SPEC = struct.Struct(">BBI")
_PAIR = struct.Struct(">II")
_U64 = struct.Struct(">Q")
_S64 = struct.Struct(">q")

Properties: TypeAlias = dict[str, bytes]
"""A property list; values are texts with a final 0, or bytes."""


@dataclass(frozen=True)
class Spec:
    """A sample specification: format number, channels, frames a second."""

    format: int
    channels: int
    rate: int


@dataclass(frozen=True)
class Format:
    """An encoding (1 is PCM) and its properties."""

    encoding: int
    properties: Properties = field(default_factory=dict)


Value: TypeAlias = (
    int
    | str
    | bytes
    | Spec
    | Properties
    | Format
    | tuple[int, ...]
    | list[str]
    | list[Format]
    | None
)
_T = TypeVar("_T")


class Fields(list[Value]):
    """Decoded fields; a method returns one as the type that its letter gives."""

    def number(self, at: int) -> int:
        """The number (or truth) at that place."""
        return _as(int, self[at])

    def truth(self, at: int) -> bool:
        """The truth at that place."""
        return _as(bool, self[at])

    def text(self, at: int) -> str | None:
        """The text at that place."""
        return None if self[at] is None else _as(str, self[at])

    def numbers(self, at: int) -> tuple[int, ...]:
        """The channel map, volumes or time at that place."""
        return _as(tuple, self[at])

    def spec(self, at: int) -> Spec:
        """The sample specification at that place."""
        return _as(Spec, self[at])

    def properties(self, at: int) -> Properties:
        """The property list at that place."""
        return _as(dict, self[at])

    def formats(self, at: int) -> list[Format]:
        """The counted formats at that place."""
        return _as(list, self[at])

    def texts(self, at: int) -> list[str]:
        """The texts at that place."""
        return _as(list, self[at])


def _as(kind: type[_T], value: object) -> _T:
    if not isinstance(value, kind):
        raise InternalError(f"a field is {type(value).__name__}, not {kind.__name__}")
    return value


# -- reading ---------------------------------------------------------------------


class Reader:
    """Takes fields from the front of some bytes.  Raises PeerError."""

    def __init__(self, untrusted_data: bytes, start: int = 0) -> None:
        self._data = untrusted_data
        self._at = start

    @property
    def left(self) -> int:
        """The number of bytes that have not been read yet."""
        return len(self._data) - self._at

    def fields(self, signature: str) -> Fields:
        """Take one field for each letter."""
        return Fields([self.take(letter) for letter in signature])

    def take(self, letter: str) -> Value:
        """Take one field of that type."""
        return _TAKE[letter](self)

    def rest(self) -> bytes:
        """Take all that is left, as it is; it must be well-formed."""
        start = self._at
        self.skip_all()
        return self._data[start:]

    def end(self) -> None:
        """Nothing may be left.  Raises PeerError."""
        if self.left:
            raise PeerError(f"{self.left} bytes follow a command's last field")

    def skip_all(self) -> None:
        """Check all remaining fields.  Raises PeerError for a malformed field."""
        while self.left:
            tag = self._data[self._at]
            letter = _TYPES.get(tag)
            if letter is None:
                raise PeerError(f"unknown field type {tag:#04x}")
            self.take(letter)

    def _bytes(self, count: int) -> bytes:
        if count > self.left:
            raise PeerError("a command ends inside a field")
        self._at += count
        return self._data[self._at - count : self._at]

    def _tag(self, letter: bytes) -> None:
        if self._bytes(1) != letter:
            found = self._data[self._at - 1]
            raise PeerError(f"field type {found:#04x} where {letter!r} is expected")

    def _take_struct(self, letter: bytes, layout: struct.Struct) -> tuple[int, ...]:
        self._tag(letter)
        return layout.unpack(self._bytes(layout.size))

    def _u32(self) -> int:
        return self._take_struct(b"L", _U32)[0]

    def _u8(self) -> int:
        self._tag(b"B")
        return self._bytes(1)[0]

    def _truth(self) -> bool:
        letter = self._bytes(1)
        if letter not in {b"0", b"1"}:
            raise PeerError(f"field type {letter!r} where a boolean is expected")
        return letter == b"1"

    def _null_or_text(self) -> str | None:
        if self.left and self._data[self._at] == _NULL:
            self._at += 1
            return None
        return self._text()

    def _text(self) -> str:
        """Read a text.  Raises PeerError."""
        self._tag(b"t")
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise PeerError("a string is not terminated")
        raw = self._bytes(end - self._at)
        self._at += 1
        return raw.decode("utf-8", "replace")

    def _spec(self) -> Spec:
        return Spec(*self._take_struct(b"a", _SPEC))

    def _map(self) -> tuple[int, ...]:
        self._tag(b"m")
        return tuple(self._bytes(self._channels()))

    def _volumes(self) -> tuple[int, ...]:
        self._tag(b"v")
        count = self._channels()
        return struct.unpack(f">{count}I", self._bytes(4 * count))

    def _channels(self) -> int:
        count = self._bytes(1)[0]
        if count > limits.PULSE_CHANNELS_ANY:
            raise PeerError(f"too many channels: {count}")
        return count

    def _time(self) -> tuple[int, ...]:
        return self._take_struct(b"T", _PAIR)

    def _data_field(self) -> bytes:
        (count,) = self._take_struct(b"x", _U32)
        return self._bytes(count)

    def _properties(self) -> Properties:
        """Read a list of properties.  Raises PeerError."""
        self._tag(b"P")
        found: Properties = {}
        for _ in range(limits.PULSE_PROPERTIES + 1):
            key = self._null_or_text()
            if key is None:
                return found
            size = self._u32()
            value = self._data_field()
            if len(value) != size:
                raise PeerError("the two lengths of a property differ")
            found[key] = value
        raise PeerError(f"more than {limits.PULSE_PROPERTIES} properties")

    def _format(self) -> Format:
        self._tag(b"f")
        return Format(self._u8(), self._properties())

    def _formats(self) -> list[Format]:
        return [self._format() for _ in range(self._u8())]

    def _keys(self) -> list[str]:
        """Read a list of names.  Raises PeerError."""
        keys: list[str] = []
        while (key := self._null_or_text()) is not None:
            keys.append(key)
            if len(keys) > limits.PULSE_PROPERTIES:
                raise PeerError(f"more than {limits.PULSE_PROPERTIES} properties")
        return keys

    TAKE: Mapping[str, Callable[[Reader], Value]] = MappingProxyType(
        {
            "L": _u32,
            "B": _u8,
            "b": _truth,
            "t": _text,
            "s": _null_or_text,
            "U": lambda self: self._take_struct(b"U", _U64)[0],
            "R": lambda self: self._take_struct(b"R", _U64)[0],
            "r": lambda self: self._take_struct(b"r", _S64)[0],
            "V": lambda self: self._take_struct(b"V", _U32)[0],
            "T": _time,
            "a": _spec,
            "m": _map,
            "v": _volumes,
            "x": _data_field,
            "P": _properties,
            "f": _format,
            "F": _formats,
            "k": _keys,
        }
    )


_TAKE = Reader.TAKE
_NULL = ord("N")
_TYPES = {ord(letter): letter for letter in "LBtURrVTamvxPf"} | {
    _NULL: "s",
    ord("0"): "b",
    ord("1"): "b",
}


def decode(signature: str, untrusted_data: bytes, start: int = 0) -> Fields:
    """Return the fields of exactly that signature.  Raises PeerError."""
    reader = Reader(untrusted_data, start)
    found = reader.fields(signature)
    reader.end()
    return found


# -- writing ---------------------------------------------------------------------


def encode(signature: str, values: Iterable[Value]) -> bytes:
    """Return the bytes of these values; one for each letter."""
    return b"".join(
        _PUT[letter](value) for letter, value in zip(signature, values, strict=True)
    )


def _number(letter: bytes, layout: struct.Struct) -> Callable[[Value], bytes]:
    return lambda value: letter + layout.pack(_as(int, value))


def _put_truth(value: Value) -> bytes:
    return b"1" if value else b"0"


def _put_text(value: Value) -> bytes:
    return b"t" + _as(str, value).encode("utf-8", "replace").replace(b"\0", b"") + b"\0"


def _put_text_or_null(value: Value) -> bytes:
    return b"N" if value is None else _put_text(value)


def _put_spec(value: Value) -> bytes:
    spec = _as(Spec, value)
    return b"a" + _SPEC.pack(spec.format, spec.channels, spec.rate)


def _put_map(value: Value) -> bytes:
    numbers: tuple[int, ...] = _as(tuple, value)
    return b"m" + bytes([len(numbers), *numbers])


def _put_volumes(value: Value) -> bytes:
    numbers: tuple[int, ...] = _as(tuple, value)
    return b"v" + bytes([len(numbers)]) + struct.pack(f">{len(numbers)}I", *numbers)


def _put_data(value: Value) -> bytes:
    data = _as(bytes, value)
    return b"x" + _U32.pack(len(data)) + data


def _put_properties(value: Value) -> bytes:
    properties: Properties = _as(dict, value)
    parts = [b"P"]
    for key, data in properties.items():
        parts += [_put_text(key), b"L" + _U32.pack(len(data)), _put_data(data)]
    return b"".join([*parts, b"N"])


def _put_format(value: Value) -> bytes:
    form = _as(Format, value)
    return b"fB" + bytes([form.encoding]) + _put_properties(form.properties)


def _put_formats(value: Value) -> bytes:
    forms: list[Format] = _as(list, value)
    return b"B" + bytes([len(forms)]) + b"".join(_put_format(form) for form in forms)


def _put_keys(value: Value) -> bytes:
    keys: list[str] = _as(list, value)
    return b"".join(_put_text(key) for key in keys) + b"N"


_PUT: Mapping[str, Callable[[Value], bytes]] = MappingProxyType(
    {
        "L": _number(b"L", _U32),
        "B": lambda value: b"B" + bytes([_as(int, value)]),
        "b": _put_truth,
        "t": _put_text,
        "s": _put_text_or_null,
        "U": _number(b"U", _U64),
        "R": _number(b"R", _U64),
        "r": _number(b"r", _S64),
        "V": _number(b"V", _U32),
        "T": lambda value: b"T" + _PAIR.pack(*_as(tuple, value)),
        "a": _put_spec,
        "m": _put_map,
        "v": _put_volumes,
        "x": _put_data,
        "P": _put_properties,
        "f": _put_format,
        "F": _put_formats,
        "k": _put_keys,
    }
)
