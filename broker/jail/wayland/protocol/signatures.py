"""Messages of the frozen tables, as values that handlers are built from."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache

from typing_extensions import override

from broker.jail.wayland.protocol.tables import INTERFACES


@dataclass(frozen=True, slots=True)
class MessageArgument:
    """``kind`` is one of ``iufsonah``; ``interface`` is "" where any is allowed."""

    kind: str
    nullable: bool
    interface: str


@dataclass(frozen=True, slots=True)
class MessageSignature:
    """A request or event.

    ``words`` unpacks all arguments when each is one word of four bytes, and
    is None when there is a string or an array; ``fds`` counts descriptors.
    """

    interface: str
    name: str
    opcode: int
    since: int
    args: tuple[MessageArgument, ...]
    words: struct.Struct | None
    fds: int

    @property
    def kinds(self) -> str:
        """A letter for each argument that takes bytes (no ``h``)."""
        return "".join(a.kind for a in self.args if a.kind != "h")

    @property
    def layout(self) -> str:
        """Format of the whole message for ``struct``: object, opcode, size, words."""
        assert self.words is not None, "a message of unknown size"
        return "IHH" + self.words.format.lstrip("=")

    @property
    def head(self) -> tuple[int, int]:
        """Opcode and size, where the size never changes."""
        assert self.words is not None, "a message of unknown size"
        return self.opcode, self.words.size + 8

    @property
    def plain(self) -> bool:
        """Return whether nothing but numbers is in it, so it needs no translation."""
        return all(a.kind in "iuf" for a in self.args)

    @override
    def __str__(self) -> str:
        return f"{self.interface}.{self.name}"


def _argument(text: str) -> MessageArgument:
    nullable = text.startswith("?")
    kind, _, interface = text.lstrip("?").partition(":")
    return MessageArgument(kind, nullable, interface)


def _message(interface: str, opcode: int, text: str) -> MessageSignature:
    """Parse one message of the signature table."""
    name, since, *rest = text.split()
    args = tuple(map(_argument, rest))
    letters = "".join("i" if a.kind in "if" else "I" for a in args if a.kind != "h")
    words = None
    if not any(a.kind in "sa" for a in args):
        words = struct.Struct("=" + letters)
    fds = sum(a.kind == "h" for a in args)
    return MessageSignature(interface, name, opcode, int(since), args, words, fds)


@cache
def requests_of(interface: str) -> tuple[MessageSignature, ...]:
    """All requests of an interface, in the order of their opcodes."""
    rows = INTERFACES[interface][0]
    return tuple(_message(interface, i, row) for i, row in enumerate(rows))


@cache
def events_of(interface: str) -> tuple[MessageSignature, ...]:
    """All events of an interface, in the order of their opcodes."""
    rows = INTERFACES[interface][1]
    return tuple(_message(interface, i, row) for i, row in enumerate(rows))


def request(interface: str, name: str) -> MessageSignature:
    """One request by its name."""
    return next(m for m in requests_of(interface) if m.name == name)


def event(interface: str, name: str) -> MessageSignature:
    """One event by its name."""
    return next(m for m in events_of(interface) if m.name == name)
