"""Messages between the icons of a sandbox's programs and its broker.

JSON objects with a ``type`` key, one in each frame (``core.framing``), on a call of
``vitrail.Tray`` that was permitted.  The other side is ``shims/files/tray.py``.  Numbers
are the daemon's own: no other connection can name them.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import PeerError
from broker.core.framing import encode_frame
from broker.core.limits import tray as limits

Number = Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)]


class ShowIcon(msgspec.Struct, frozen=True, tag="icon", forbid_unknown_fields=True):
    """Show an icon, or change the one of that number.

    ``pixels``: ARGB32 in network byte order (StatusNotifierItem, icons), a square of
    ``ICON_PIXELS``; empty: it has no picture.
    """

    number: Number
    title: Annotated[str, msgspec.Meta(max_length=limits.ICON_TITLE_CHARS)] = ""
    pixels: Annotated[bytes, msgspec.Meta(max_length=limits.ICON_BYTES)] = b""

    def __post_init__(self) -> None:
        # guard: a picture of an icon has one size
        if len(self.pixels) not in {0, limits.ICON_BYTES}:
            raise ValueError("a picture of another size")


class HideIcon(msgspec.Struct, frozen=True, tag="gone", forbid_unknown_fields=True):
    """Take an icon back."""

    number: Number


IconAsk: TypeAlias = ShowIcon | HideIcon


class IconClicked(msgspec.Struct, frozen=True, tag="clicked"):
    """The user has clicked an icon; ``second``: with the middle button."""

    number: Number
    second: bool


_asks: msgspec.json.Decoder[IconAsk] = msgspec.json.Decoder(IconAsk)


def decode_icon(untrusted_body: bytes) -> IconAsk:
    """Return the message of a guest's daemon.  Raises PeerError."""
    try:
        return _asks.decode(untrusted_body)
    except UNREADABLE as error:
        raise PeerError(f"not a message about icons: {error}") from error


def click_frame(click: IconClicked) -> bytes:
    """Return the frame of a click."""
    return encode_frame(msgspec.json.encode(click), limits.ICON_FRAME_BYTES)
