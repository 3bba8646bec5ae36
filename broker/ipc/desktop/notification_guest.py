"""Messages between a sandbox's notification daemon and its broker.

JSON objects with a ``type`` key, one in each frame (``core.framing``), on the port of
``vitrail.Notification``.  The other side is ``shims/files/notifications.py``; a test
compares the two.  Numbers are the daemon's own: no other connection can name them.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import PeerError
from broker.core.framing import encode_frame
from broker.core.limits import notifications as limits

Number = Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)]
Summary = Annotated[str, msgspec.Meta(max_length=limits.SUMMARY_CHARS)]
Body = Annotated[str, msgspec.Meta(max_length=limits.BODY_CHARS)]
Key = Annotated[str, msgspec.Meta(max_length=limits.ACTION_CHARS)]
Actions = Annotated[list[tuple[Key, Key]], msgspec.Meta(max_length=limits.ACTIONS)]
Urgency = Annotated[int, msgspec.Meta(ge=0, le=2)]
Expire = Annotated[int, msgspec.Meta(ge=-1, le=0x7FFFFFFF)]


class _Message(
    msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True
):
    pass


class DaemonShow(_Message, frozen=True, tag="show"):
    """Show a notification, or change the one of that number.

    ``urgency``: 0 low, 1 normal, 2 critical.  ``actions``: key and label of each
    button; the key ``default`` is a click on the notification.  ``expire``:
    milliseconds, 0 never, -1 as the desktop likes (Desktop Notifications 1.2, Notify).
    """

    number: Number
    summary: Summary
    body: Body = ""
    urgency: Urgency = 1
    actions: Actions = []
    expire: Expire = -1


class DaemonClose(_Message, frozen=True, tag="close"):
    """Take a notification back."""

    number: Number


FromDaemon: TypeAlias = DaemonShow | DaemonClose


class NotificationAction(_Message, frozen=True, tag="action"):
    """The user has pressed a button of a notification, or clicked on it."""

    number: int
    key: str


class NotificationClosed(_Message, frozen=True, tag="closed"):
    """A notification is not shown any more.

    ``reason``: 1 expired, 2 dismissed, 3 taken back, 4 anything else
    (Desktop Notifications 1.2, NotificationClosed).
    """

    number: int
    reason: int


ToDaemon: TypeAlias = NotificationAction | NotificationClosed

_from_daemon: msgspec.json.Decoder[FromDaemon] = msgspec.json.Decoder(FromDaemon)


def decode_from_daemon(untrusted_body: bytes) -> FromDaemon:
    """Return the message of a guest's daemon.  Raises PeerError."""
    try:
        return _from_daemon.decode(untrusted_body)
    except UNREADABLE as error:
        raise PeerError(f"not a message about notifications: {error}") from error


def daemon_frame(message: ToDaemon) -> bytes:
    """Return the frame of an answer."""
    return encode_frame(msgspec.json.encode(message), limits.NOTIFICATION_FRAME_BYTES)
