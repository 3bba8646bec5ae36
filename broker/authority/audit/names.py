"""Names of objects in events: kept, replaced by a keyed hash, or dropped.

A reader of the log learns from the hash that two names are the same; a reader who
has the key (``audit.names``, beside the log) whether a name is a certain one.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import TypeVar

import msgspec

from broker.authority.audit.settings import Names
from broker.core.errors import SetupError, UpstreamError
from broker.ipc.audit.event import Event

_KEY_BYTES = 32
_DIGITS = 32
DROPPED = "(dropped)"

_E = TypeVar("_E", bound=Event)


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

    def apply(self, event: _E) -> _E:
        """The event as it may be recorded."""
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


def load_namer(setting: Names, log: Path, *, clipboard_digest: bool = False) -> Namer:
    """The namer of a log, its key made where there is none.

    Raises SetupError for a key file that is not one of ours, UpstreamError
    when the disk refuses.
    """
    path = log.with_suffix(".names")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
        with os.fdopen(fd, "rb+") as file:
            key = file.read(_KEY_BYTES + 1)
            if not key:
                key = secrets.token_bytes(_KEY_BYTES)
                file.write(key)
                file.flush()
                os.fsync(fd)
    except OSError as error:
        raise UpstreamError(
            f"the key for names in the audit log cannot be used: {error}"
        ) from error
    if len(key) != _KEY_BYTES:
        raise SetupError(
            "not the key for names in the audit log",
            where=str(path),
            hint="move it away; hashes of before will not compare with later ones",
        )
    return Namer(setting, key, clipboard_digest=clipboard_digest)
