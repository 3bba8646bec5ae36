"""Orders about sound, cameras, screens and security keys.

The viewer makes them by a permit; a session child carries them out.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from broker.core.services import AUDIO, CAMERA, SECURITY_KEY
from broker.ipc.session.order import ENDS, OrderMessage
from broker.wire.row import Empty, NeededPermit, Row

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


class ConnectSound(OrderMessage, frozen=True):
    """Connect to the sound server.  Descriptor of the answer: the socket.

    The worker filters it, so a permit of a record with ``audio = "raw"`` opens the same
    socket as any other.
    """


class FindCamera(OrderMessage, frozen=True):
    """Find the camera that the session prefers."""


class FoundCamera(OrderMessage, frozen=True):
    """A camera; ``title`` is escaped."""

    title: str
    serial: ObjectNumber


class TakeCamera(OrderMessage, frozen=True):
    """Take pictures of a camera.

    Descriptor of the answer: where they come, one after the other.
    """

    serial: ObjectNumber
    width: Pixels
    height: Pixels


class TakeScreen(OrderMessage, frozen=True):
    """Take pictures of what the user shares.  Answer: as for ``TakeCamera``.

    Descriptor: the connection to PipeWire that the desktop's portal has made, which
    sees only the chosen screen.

    No permit: whoever has the connection has the
    screen, and the user may take longer to choose than a warrant is good.
    """

    node: ObjectNumber
    width: Pixels
    height: Pixels


class OpenSecurityKey(OrderMessage, frozen=True):
    """Start the process between a guest and the security key of this machine.

    Descriptors: the guest's connection, and the socket of its questions.
    """


class ShowFrame(OrderMessage, frozen=True):
    """Show a frame around a screen until it ends, or the screen does.

    Descriptor of the answer: a socket with a byte when it is drawn; the viewer closes it
    at the first picture.

    No permit: it reads nothing, and the viewer chooses the colours of
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


class ShowBanner(OrderMessage, frozen=True):
    """Show above all windows what sandboxes use, until it ends.

    Descriptor of the answer: a socket with "1" when it is drawn, "0" if this compositor
    cannot show it.

    No permit: it reads nothing, as ``ShowFrame``.
    """

    rows: Annotated[tuple[BannerRow, ...], msgspec.Meta(min_length=1, max_length=8)]


# guard: the sound server is reached with a permit for sound
CONNECT_SOUND = Row(
    "ConnectSound",
    ConnectSound,
    Empty,
    *ENDS,
    permit=NeededPermit(frozenset({AUDIO})),
    gives=1,
)
# guard: cameras are named to who may use one
FIND_CAMERA = Row(
    "FindCamera",
    FindCamera,
    FoundCamera,
    *ENDS,
    permit=NeededPermit(frozenset({CAMERA})),
)
# guard: a camera is opened with a permit for cameras
TAKE_CAMERA = Row(
    "TakeCamera",
    TakeCamera,
    Empty,
    *ENDS,
    permit=NeededPermit(frozenset({CAMERA})),
    gives=1,
)
TAKE_SCREEN = Row("TakeScreen", TakeScreen, Empty, *ENDS, takes=1, gives=1)
# guard: a security key is opened with a permit for it
OPEN_SECURITY_KEY = Row(
    "OpenSecurityKey",
    OpenSecurityKey,
    Empty,
    *ENDS,
    permit=NeededPermit(frozenset({SECURITY_KEY}), precedes_uses=True),
    takes=2,
)
SHOW_FRAME = Row("ShowFrame", ShowFrame, Empty, *ENDS, gives=1)
SHOW_BANNER = Row("ShowBanner", ShowBanner, Empty, *ENDS, gives=1)
