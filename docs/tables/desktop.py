"""Rows of the messages about notifications and icons (``channel_policy``)."""

from __future__ import annotations

from collections.abc import Mapping

from docs.tables.channel import ChannelPolicy, no_descriptors

_BROKER, _WORKER = "the broker", "this sandbox's worker"
_PROGRAM = "any program of the sandbox"
_DECODE = "decoding one bounded message"
_SHOW = "an event and a call of the desktop's server, within the sandbox's budgets"

GUEST: Mapping[str, ChannelPolicy] = {
    "show": no_descriptors(
        _PROGRAM,
        "one at a time, at MESSAGES_PER_SECOND",
        _SHOW,
        "Plain text on the desktop, under its name; beyond its budgets a number.",
    ),
    "close": no_descriptors(
        _PROGRAM,
        "as a notification",
        _DECODE,
        "A notification of this connection goes.",
    ),
    "action": no_descriptors(
        _WORKER, "once the user has pressed", _DECODE, "Learns which button."
    ),
    "closed": no_descriptors(
        _WORKER,
        "once for a notification",
        _DECODE,
        "Learns whether it expired or was dismissed.",
    ),
}
"""Notifications, on a call of ``vitrail.Notification``."""
_ICON = "a connection to the session bus, within the sandbox's places"
TRAY: Mapping[str, ChannelPolicy] = {
    "icon": no_descriptors(
        _PROGRAM,
        "one at a time, at ICON_CHANGES_PER_SECOND",
        _ICON,
        "A picture in a frame of its colour in the panel, and plain text after its name.",
    ),
    "gone": no_descriptors(
        _PROGRAM, "as an icon", _DECODE, "An icon of this connection goes."
    ),
    "clicked": no_descriptors(
        _WORKER, "for a click, at ICON_CLICKS_PER_SECOND", _DECODE, "Learns of a click."
    ),
}
"""Icons in the panel, on a call of ``vitrail.Tray``."""
TO_WORKER: Mapping[str, ChannelPolicy] = {
    "daemon-more": no_descriptors(
        _BROKER, "for each request of a daemon", _DECODE, "Nothing."
    ),
}
