"""The columns of the table of messages, as types.

A handler acts on a message; its row here says what the message
is worth to an attacker.  The rows are written by hand, beside the handlers'
tables and with the same keys, because each column is a question that has to
be asked of a message: popup grabs by an old serial, cursors that walk and
writable keymaps were each one column that had not been filled in.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Sender(enum.Enum):
    """Clients whose request has an effect, or clients that receive an event."""

    ANYBODY = "any client"
    """Every client at any time; a background window as well as the focused one."""
    POINTED = "pointed at"
    """Only the client whose content has the pointer (or the finger)."""
    FOCUSED = "focused"
    """Only a client with a window that has the keyboard."""
    PRESSED = "pressed"
    """Only a client that received a key, button or touch a short time ago."""
    COMPOSITOR = "compositor"
    """An event about the client's own objects; no focus is involved."""
    FILTER = "filter"
    """An event that only the filter sends; the compositor's own does not pass."""


class Serial(enum.Enum):
    """Which serial a request must name, or which one an event gives."""

    NONE = "none"
    DELIVERED = "one of the last 512 that this client received"
    INPUT = "of a key, button or touch that this client received at most 20 s ago"
    HELD = "of a button or finger that is still down on its surface"
    YOUNG = "of a key, button or touch at most 5 s ago, since the keyboard came"
    CURRENT = "one that this client received since the keyboard came"
    ENTER = "of the pointer's latest enter, while the pointer is still there"
    CONFIGURE = "of a configure that is not acknowledged yet"
    PING = "of a ping that is not answered yet"
    GIVES = "gives one"
    GIVES_INPUT = "gives one that proves input"


class Cost(enum.Enum):
    """Work of the compositor for a request, or for an object that an event creates."""

    NONE = "nothing: the filter keeps or answers it"
    MESSAGE = "one message"
    OBJECT = "one message and one object"
    HELD = "nothing until the commit, then one message"
    CHILD = "nothing until the commit, then a new place or order of all subsurfaces"
    REGION = "nothing until the commit, then a region of at most 64 rectangles"
    WINDOW = "a window with a frame: five surfaces and their buffers"
    POPUP = "a menu with a frame: five surfaces, and a placement"
    COMMIT = "layout, upload of the damaged pixels, a new picture"
    MEMORY = "a mapping of the client's memory"
    PLACEMENT = "a placement of the window by the compositor"
    EVENT = "nothing further: the event is already sent"


MEASURED: Mapping[Cost, tuple[str, str]] = {
    Cost.NONE: ("0 to 0.1", "one message"),
    Cost.MESSAGE: (
        "2 to 4; a title 710",
        "one message; titles have a separate rate",
    ),
    Cost.OBJECT: ("3 to 8, with its end", "two messages, with its end"),
    Cost.HELD: ("0.1 to 3, with its commit", "one message"),
    Cost.CHILD: ("5 to 6, of 200", "two messages, and the commit by its surfaces"),
    Cost.REGION: ("59, of 60 rectangles", "a message for each 20 bytes that go up: 76"),
    Cost.WINDOW: ("32, with its end", "a message for each 20 bytes that go up: 22"),
    Cost.POPUP: ("235 to 530, with its end", "150 messages"),
    Cost.COMMIT: (
        "2.5; 5 among 55 windows; 600 among 200 subsurfaces; 1 for 1,000 pixels drawn",
        "one message, and one for each 40 windows; by its surfaces; what is drawn",
    ),
    Cost.MEMORY: ("34 to 43, with its end", "12 messages, with its end"),
    Cost.PLACEMENT: ("3 to 4", "one or two messages"),
    Cost.EVENT: ("", ""),
}
"""Cost of requests of each kind: microseconds of a compositor's CPU time for one, by
``python -m tests.bench.wayland.costs`` (sway 1.7 with
pixman, on two busy cores); and what the filter charges for one."""


class Descriptors(enum.Enum):
    """The descriptors that a message carries, and who owns the files or pipes."""

    NONE = "none"
    CLIENT_MEMORY = "the client's memory file: checked (regular, tmpfs, size) and read; the compositor has a copy"
    GPU_MEMORY = "the client's GPU memory: the kernel says that it is a dma-buf, and how large; the compositor has the same memory"
    CLIENT_PIPE = "a pipe of the client's: checked, given to a client of the same sandbox or closed"
    SANDBOX_PIPE = "a pipe from another client of the same sandbox, or our pipe"
    COMPOSITOR_MEMORY = "the compositor's memory file, as the compositor sent it"
    COPIED_TABLE = (
        "our sealed copy, one for each connection; the compositor's file is closed here"
    )
    COPIED_MEMORY = "our sealed copy; the compositor's file is closed here"
    DROPPED = "the compositor's: closed here"


@dataclass(frozen=True, slots=True)
class MessagePolicy:
    """One row.  ``gain`` says what a sandbox in the background gets out of it."""

    sender: Sender
    serial: Serial
    cost: Cost
    descriptors: Descriptors
    gain: str


Policies = Mapping[tuple[str, str], MessagePolicy]
"""(interface, message) to its row: one module's part of the table."""


def request(
    gain: str,
    cost: Cost = Cost.MESSAGE,
    sender: Sender = Sender.ANYBODY,
    serial: Serial = Serial.NONE,
    descriptors: Descriptors = Descriptors.NONE,
) -> MessagePolicy:
    """A request's row; the defaults are those of most requests."""
    return MessagePolicy(sender, serial, cost, descriptors, gain)


def event(
    gain: str,
    sender: Sender = Sender.COMPOSITOR,
    serial: Serial = Serial.NONE,
    descriptors: Descriptors = Descriptors.NONE,
) -> MessagePolicy:
    """An event's row; the defaults are those of most events."""
    return MessagePolicy(sender, serial, Cost.EVENT, descriptors, gain)


END = request("Nothing: it ends its object.")
END_LOCAL = request("Nothing: it ends an object that only the filter has.", Cost.NONE)
MAKE = request("An object; counted against the sandbox's limit.", Cost.OBJECT)
MAKE_LOCAL = request(
    "An object that only the filter has; counted against the sandbox's limit.",
    Cost.NONE,
)
HELD = request("Changes its picture inside its frame.", Cost.HELD)
CHILD = request("Changes its picture inside its frame.", Cost.CHILD)
KEPT = request("Nothing before the request that uses it.", Cost.NONE)
TOLD = event("Learns about its object.")
OURS = event("Learns what another client of its sandbox did.", Sender.FILTER)
