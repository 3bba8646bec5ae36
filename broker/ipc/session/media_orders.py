"""Orders about sound, cameras, screens and security keys.

The viewer makes them by a permit; a session child carries them out.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import Reader, TypedMessage, reader
from broker.core.errors import InternalError

Pixels = Annotated[int, msgspec.Meta(ge=1, le=4096)]
"""A side of the pictures that a sandbox gets."""
ObjectNumber = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""Of an object of PipeWire."""
Colour = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9a-fA-F]+\Z", min_length=6, max_length=6)
]
Mark = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z-]{0,15}\Z")]
"""A word of frames and banner."""
Length = Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
Place = Annotated[int, msgspec.Meta(ge=-(1 << 16), le=1 << 16)]
"""In pixels of the desktop."""


class ConnectSound(TypedMessage, frozen=True, tag="connect-sound"):
    """Connect to the sound server.  Answer: the socket.

    The worker filters it, so a permit of a record with ``audio = "raw"`` opens the same
    socket as any other.
    """

    warrant: bytes


class FindCamera(TypedMessage, frozen=True, tag="find-camera"):
    """Find the camera that the session prefers.  Answer: ``FoundCamera``."""

    warrant: bytes


class TakeCamera(TypedMessage, frozen=True, tag="take-camera"):
    """Take pictures of a camera.  Answer: where they come, one after the other."""

    warrant: bytes
    serial: ObjectNumber
    width: Pixels
    height: Pixels


class TakeScreen(TypedMessage, frozen=True, tag="take-screen"):
    """Take pictures of what the user shares.  Answer: as for ``TakeCamera``.

    Descriptor: the connection to PipeWire that the desktop's portal has made, which
    sees only the chosen screen.  Needs no permit: whoever has the connection has the
    screen, and the user may take longer to choose than a warrant is good.
    """

    node: ObjectNumber
    width: Pixels
    height: Pixels


class OpenSecurityKey(TypedMessage, frozen=True, tag="open-security-key"):
    """Start the process between a guest and the security key of this machine.

    Descriptors: the guest's connection, and the socket of its questions.
    """

    warrant: bytes


class ShowFrame(TypedMessage, frozen=True, tag="show-frame"):
    """Show a frame around a screen until it ends, or the screen does.

    Answer: a socket with a byte when it is drawn; the viewer closes it at the first
    picture.  Needs no permit: it reads nothing, and the viewer chooses the colours of
    all frames in any case.
    """

    colour: Colour
    width: Length
    height: Length
    x: Place
    y: Place


class BannerRow(msgspec.Struct, frozen=True, array_like=True):
    """What a sandbox uses now, in words for the banner."""

    colour: Colour
    sandbox: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,64}\Z")]
    marks: Annotated[tuple[Mark, ...], msgspec.Meta(min_length=1, max_length=8)]


class ShowBanner(TypedMessage, frozen=True, tag="show-banner"):
    """Show above all windows what sandboxes use, until it ends.

    Answer: a socket with "1" when it is drawn, "0" if this compositor cannot show it.
    Needs no permit, like ``ShowFrame``.
    """

    rows: Annotated[tuple[BannerRow, ...], msgspec.Meta(min_length=1, max_length=8)]


MediaOrder: TypeAlias = (
    ConnectSound
    | FindCamera
    | OpenSecurityKey
    | ShowBanner
    | ShowFrame
    | TakeCamera
    | TakeScreen
)


class FoundCamera(TypedMessage, frozen=True, tag="camera"):
    """A camera; ``title`` is escaped."""

    title: str
    serial: ObjectNumber


decode_camera: Reader[FoundCamera] = reader(
    msgspec.msgpack.Decoder(FoundCamera), "not a camera", InternalError
)
"""Return the camera of an answer."""
