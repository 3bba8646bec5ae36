"""Messages between a sandbox's daemons of its session bus and its broker.

JSON objects with a ``type`` key, one in each frame (``core.framing``), on a call of
``vitrail.Notification`` or ``vitrail.Tray`` that was permitted.  The other sides are
``shims/files/notifications.py`` and ``tray.py``; a test compares the limits.  Numbers
are the daemon's own: no other connection can name them.

The worker decodes a daemon's message; the viewer decodes it again and makes the
answers.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import Reader, TypedMessage, reader
from broker.core.framing import encode_frame
from broker.core.limits import notifications as limits
from broker.core.limits import tray

Number = Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)]
Summary = Annotated[str, msgspec.Meta(max_length=limits.SUMMARY_CHARS)]
Body = Annotated[str, msgspec.Meta(max_length=limits.BODY_CHARS)]
Key = Annotated[str, msgspec.Meta(max_length=limits.ACTION_CHARS)]
Actions = Annotated[list[tuple[Key, Key]], msgspec.Meta(max_length=limits.ACTIONS)]
Urgency = Annotated[int, msgspec.Meta(ge=0, le=2)]
Expire = Annotated[int, msgspec.Meta(ge=-1, le=0x7FFFFFFF)]


class DaemonShow(TypedMessage, frozen=True, tag="show"):
    """Show a notification, or change the notification of that number.

    ``urgency``: 0 low, 1 normal, 2 critical.  ``actions``: key and label of each
    button; the key ``default`` is a click on the notification.  ``expire``:
    milliseconds, 0 never, -1 as the desktop likes (Desktop Notifications 1.2, Notify).
    """

    number: Number
    summary: Summary
    body: Body = ""
    urgency: Urgency = 1
    actions: Actions = msgspec.field(default_factory=list)
    expire: Expire = -1


class DaemonClose(TypedMessage, frozen=True, tag="close"):
    """Take a notification back."""

    number: Number


class ShowIcon(TypedMessage, frozen=True, tag="icon"):
    """Show an icon, or change the icon of that number.

    ``pixels``: ARGB32 in network byte order (StatusNotifierItem, icons), a square of
    ``ICON_PIXELS``; empty: it has no picture.
    """

    number: Number
    title: Annotated[str, msgspec.Meta(max_length=tray.ICON_TITLE_CHARS)] = ""
    pixels: Annotated[bytes, msgspec.Meta(max_length=tray.ICON_BYTES)] = b""

    def __post_init__(self) -> None:
        # guard: a picture of an icon has one size
        if len(self.pixels) not in {0, tray.ICON_BYTES}:
            raise ValueError("the picture has another size")


class HideIcon(TypedMessage, frozen=True, tag="gone"):
    """Take an icon back."""

    number: Number


FromDaemon: TypeAlias = DaemonShow | DaemonClose | ShowIcon | HideIcon


class NotificationAction(TypedMessage, frozen=True, tag="action"):
    """The user has pressed a button of a notification, or clicked on it."""

    number: Number
    key: str


class NotificationClosed(TypedMessage, frozen=True, tag="closed"):
    """A notification is not shown any more.

    ``reason``: 1 expired, 2 dismissed, 3 taken back, 4 anything else
    (Desktop Notifications 1.2, NotificationClosed).
    """

    number: Number
    reason: int


class IconClicked(TypedMessage, frozen=True, tag="clicked"):
    """The user has clicked an icon; ``second``: with the middle button."""

    number: Number
    second: bool


ToDaemon: TypeAlias = NotificationAction | NotificationClosed | IconClicked


decode_from_daemon: Reader[FromDaemon] = reader(
    msgspec.json.Decoder(FromDaemon), "invalid message about the desktop"
)
"""Return the message of a guest's daemon."""


def daemon_frame(message: ToDaemon) -> bytes:
    """Return the frame of an answer."""
    return encode_frame(msgspec.json.encode(message), limits.DAEMON_FRAME_BYTES)
