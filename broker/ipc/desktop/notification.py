"""Broker and worker about a sandbox's notifications: typed, bounded, msgpack.

The worker reads what the sandbox's daemon sends; the broker decides, and asks the
desktop.  Texts are as the sandbox sent them: the code that shows them escapes them.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.ipc.desktop.notification_guest import (
    DaemonClose,
    DaemonShow,
    NotificationAction,
    NotificationClosed,
)

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Text = Annotated[str, msgspec.Meta(max_length=4000)]


class _Message(
    msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True
):
    pass


class NotificationStream(_Message, frozen=True, tag="notification-stream"):
    """A connection of the sandbox's daemon; its descriptor comes with this."""

    stream: _Count


class NotificationAnswer(_Message, frozen=True, tag="notification-answer"):
    """Tell the daemon what became of a notification."""

    stream: _Count
    answer: NotificationAction | NotificationClosed


ToWorker: TypeAlias = NotificationStream | NotificationAnswer


class NotificationAsked(_Message, frozen=True, tag="notification-asked"):
    """A message of the daemon: a claim of a sandbox."""

    stream: _Count
    ask: DaemonShow | DaemonClose


class NotificationStreamClosed(_Message, frozen=True, tag="notification-stream-closed"):
    """The connection is over; ``reason`` may repeat a guest's words."""

    stream: _Count
    reason: _Text
    from_guest: _Count = 0
    to_guest: _Count = 0


FromWorker: TypeAlias = NotificationAsked | NotificationStreamClosed
