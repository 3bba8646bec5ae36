"""Names of objects in events: kept, replaced by a keyed hash, or dropped.

A reader of the log learns from the hash that two names are the same; a reader who
has the key (``audit.names``, beside the log) whether a name is a certain one.

The authority replaces names before it writes an event; host and viewer only compute
digests by this, with the authority's key.
"""

from __future__ import annotations

import enum
import hmac
from typing import TypeVar

import msgspec

from broker.ipc.audit.event import Event

_DIGITS = 32
DROPPED = "(dropped)"

_E = TypeVar("_E", bound=Event)


class Names(enum.StrEnum):
    """Treatment of the names of objects."""

    KEEP = "keep"
    HASH = "hash"
    DROP = "drop"


class Namer:
    """Applies the setting ``names`` to events."""

    def __init__(
        self, setting: Names, key: bytes, *, clipboard_digest: bool = False
    ) -> None:
        self._setting = setting
        self.key = key
        self.clipboard_digest = clipboard_digest

    def digest(self, content: bytes) -> str:
        """The keyed hash of a name."""
        made = hmac.digest(self.key, content, "sha256")
        return f"hmac:{made.hex()[:_DIGITS]}"

    def content_digest(self, content: bytes) -> str:
        """The keyed hash of the pasted content, "" unless the setting asks for it."""
        return self.digest(content) if self.clipboard_digest else ""

    # The host of an address is a decision's object. Rules can ask for it (`host=`), so
    # `policy explain --event` and `policy simulate` need it. It shows which pages a
    # user opens, as the object of `transfer.begin` does: the setting `names` hashes or
    # drops both, and such a decision is counted as not replayable.
    def apply(self, event: _E) -> _E:
        """Return a copy of an event whose object and argument are hashed or dropped."""
        if self._setting is Names.KEEP or not (event.object or event.argument):
            return event
        return msgspec.structs.replace(
            event, object=self._name(event.object), argument=self._name(event.argument)
        )

    def _name(self, name: str) -> str:
        if not name:
            return ""
        if self._setting is Names.DROP:
            return DROPPED
        return self.digest(name.encode("utf-8", "surrogatepass"))
