"""Limits of what crosses by the user's chords.

The worker keeps to them, and so does the viewer for what workers report.
"""

from __future__ import annotations

CLIPBOARD_KEYMAP_BYTES = 1 << 20
"""A compositor's keymap that chords are looked up in; four layouts are 80 kB."""

CLIPBOARD_KEYMAPS = 8
"""Keymaps kept as read, in one process: those of some keyboards and of an input
method.  One is some 100 kB."""

CLIPBOARD_KEY_EVENTS = 64
"""The last key events whose verdict is remembered, as each comes once for every
wl_keyboard of a connection, at once."""

CLIPBOARD_LAYOUTS = 4
"""Layouts of one keymap whose chords are kept ready; XKB has no more."""

CLIPBOARD_BYTES = 64_000
"""Maximum content of one paste between two sandboxes if no rule sets another size, like
in Qubes; larger content is refused whole."""

CLIPBOARD_BYTES_MOST = 64 << 20
"""The most that a rule can allow (``policy.limits.CLIPBOARD_BYTES``): a large
picture.  It is held in memory, at most twice and once for each target."""

CLIPBOARD_READ_BYTES = 1 << 20
"""Content is read and written so much at a time, and others get their turn."""

CLIPBOARD_SERVES = 16
"""Reads of one sandbox's pasted content at one time; toolkits ask for each type
once, some for all at once."""

CLIPBOARD_SERVE_SECONDS = 30.0
"""Seconds in which the requester of pasted content reads no byte; then the pipe is
closed."""

CLIPBOARD_EXPORT_SECONDS = 5.0
"""Time limit from setting the user's selection to the compositor's echo of it."""

CLIPBOARD_DEATH_SECONDS = 0.025
"""After the end of a source's data: so long its death may come late.  A source
that died in the middle looks complete, as the kernel closes all it had."""

CLIPBOARD_EVENTS = 64
"""Focus, chords and ends that wait to be sent to the broker."""

CLIPBOARD_KINDS = 4
"""Types read of one selection: text, a picture, and what a rule adds."""

CLIPBOARD_SECONDS = 300.0
"""How long copied content may be pasted, and pasted content may be read."""

CLIPBOARD_SECONDS_MOST = 86_400.0
"""The longest that a rule can allow (``policy.limits.CLIPBOARD_SECONDS``)."""

CLIPBOARD_COPY_SECONDS = 10.0
"""Time limit from the copy chord to the last byte.  Toolkits need milliseconds; a
source that stalls holds a pipe and our memory for no longer."""

CLIPBOARD_DECIDE_SECONDS = 270.0
"""Time limit from the paste chord to the decision; longer than a question to the user
may take (QUESTION_MOST_SECONDS), so that its answer still counts."""

CLIPBOARD_FOCUS_SECONDS = 0.3
"""Time after a change of the keyboard focus in which no chord counts, in seconds: a
user who sees that another window took the keyboard cannot have meant it so soon."""

CLIPBOARD_CLAIM_SECONDS = 1.0
"""Time limit for a worker that claims the keyboard while another worker has it to
answer.  A worker answers within milliseconds, and the loss of a focus is reported at
once."""

CLIPBOARD_MARKS = 64
"""Exports to the user's own selection whose origin is remembered: those that
a history of it may still hold.  One is a hundred bytes."""

CLIPBOARD_CHORDS = 20
CLIPBOARD_CHORDS_SECONDS = 10.0
"""Chords of one sandbox that are followed within that time.  A user presses
two in a second at most; a worker that was taken over would fill log and screen."""

CLIPBOARD_ORDERS = 64
"""Orders that wait for one worker, and events that wait for the clipboard.  A
copy and a paste of all types are ten each."""

CLIPBOARD_PIXEL_BYTES = 34_000_000
"""Size of an unpacked picture that is encoded again: a 4K screen with transparency.
The slowest filter takes ten seconds for it, as long as there is."""

CLIPBOARD_PICTURE_SIDE = 32_768
"""Pixels of a picture's width and of its height; toolkits have the same bounds."""

CLIPBOARD_DRAGS = 8
"""Drags of one sandbox that are known at one time.  A user has one pointer; a
few more may be ending, or wait for an answer."""

CLIPBOARD_DROP_SECONDS = 10.0
"""Time limit from a drop to the report of the other sandbox's worker about it, and from
offering the dropped content to its acceptance by the window."""

CLIPBOARD_MARK_SECONDS = 2.0
"""Time limit for the source's worker to report a drag that is already over a window:
the two are different processes, and either may report first."""

CLIPBOARD_FILES = 256
"""Files of one copy or drag, each an argument of a program in the source; a directory
is one."""

CLIPBOARD_FILE_CHARS = 4096
"""The address of one: PATH_MAX of Linux, and rarely a character that is encoded."""

CLIPBOARD_FILE_KEY_BYTES = 128
"""Maximum size of the document portal's key for dragged files; real keys have 10
characters and a zero."""
