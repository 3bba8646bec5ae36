"""Limits of the notifications that sandboxes show on the desktop."""

from __future__ import annotations

DAEMON_FRAME_BYTES = 1 << 15
"""A message of a guest's notification daemon or of its icons: the texts below, as six
bytes of JSON for each character in the worst case, fit, and so does a picture as
base64."""

SUMMARY_CHARS = 200
"""Maximum length of a title from the guest; its daemon cuts longer ones."""

BODY_CHARS = 1000
"""Maximum length of a text from the guest."""

SHOWN_SUMMARY_CHARS = 100
"""Maximum length of a title on the desktop, without the sandbox's name."""

SHOWN_BODY_CHARS = 500
"""Maximum length of a text on the desktop: the same as for Vitrail's own
notifications."""

BODY_LINES = 6
"""Lines of a text on the desktop: a bubble that covers the screen hides windows."""

ACTIONS = 4
"""Buttons of one notification."""

ACTION_CHARS = 64
"""Maximum length of a button's key and of its label; labels are cut to
``LABEL_CHARS``."""

LABEL_CHARS = 30

SHOWN_PER_SANDBOX = 5
"""On the desktop at one time; more of them become a single one with a count."""

SHOWN_TOTAL = 20
"""Maximum number of notifications of all sandboxes on the desktop at one time: servers
keep a list of each."""

PER_MINUTE = 12
"""New notifications of one sandbox; the others are counted."""

PER_MINUTE_TOTAL = 40
"""New notifications of all sandboxes together."""

CHANGES_PER_MINUTE = 60
"""Changes of existing notifications, for each sandbox: a notification with the progress
of a download changes each second."""

GROUP_SECONDS = 2.0
"""Between two changes of the notification that counts."""

MESSAGES_PER_SECOND = 20.0
"""Sustained rate of messages of one record's daemons; beyond it, only these daemons
wait."""

MESSAGES_BURST = 40

QUEUE = 16
"""Answers that wait for the daemon of one connection to read them."""

HISTORY = 100
"""Notifications of one sandbox that 'brokerctl notifications' lists; in memory."""

HISTORIES = 64
"""Sandboxes that have such a list; the oldest one goes first."""

SILENT_SECONDS = 10.0
"""Time limit for a guest's daemon to read an answer or a click, and to finish a
message."""

SERVER_SECONDS = 5.0
"""Time limit for the desktop's notification server to answer a call."""

LEAST_EXPIRE_MS = 2_000
MOST_EXPIRE_MS = 60_000
"""Bounds of the time that a guest may ask for, in milliseconds."""
