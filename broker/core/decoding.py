"""Messages between processes: their base, and their decoding with one kind of error.

Each process that receives one of our messages, or reads one of our files, decodes it by
this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import msgspec

from broker.core.errors import PeerError, VitrailError

# guard: a message that is nested deep is an error of its sender
UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
"""For ``except``, wherever bytes of another process are decoded.

msgspec skips fields that it does not know, and raises RecursionError for one that is
nested a thousand deep; a name that is not UTF-8 is a UnicodeDecodeError, a text with half
a surrogate pair a UnicodeEncodeError.  One of them missing, and a hostile sender's message ends a task that has no handler for it.
"""

Said = TypeVar("Said")
Reader: TypeAlias = Callable[[bytes], Said]


class TypedMessage(
    msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True
):
    """Base of messages that their ``type`` tells apart."""


class OneLineMessage(msgspec.Struct, frozen=True):
    """Base of messages whose texts are one printable line each."""

    def __post_init__(self) -> None:
        """Refuse hidden characters.  Raises ValueError; ``escape.fit`` removes them."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            for text in value if isinstance(value, list | tuple) else (value,):
                if isinstance(text, str) and not text.isprintable():
                    raise ValueError(f"{name} has a hidden character")


class PackedMessage(TypedMessage, frozen=True, array_like=True):
    """Base of messages whose first value tells them apart; their fields have no names."""


def reader(
    decoder: msgspec.msgpack.Decoder[Said] | msgspec.json.Decoder[Said],
    otherwise: str,
    fault: type[VitrailError] = PeerError,
) -> Reader[Said]:
    """Return a function that decodes messages, and raises ``fault`` for other bytes."""

    def read(untrusted_data: bytes) -> Said:
        try:
            return decoder.decode(untrusted_data)
        except UNREADABLE as error:
            raise fault(f"{otherwise}: {error}") from error

    return read
