"""The key that replaces names in events, beside the log.

The authority reads the key, or makes it, when it opens the log, and sends it to host
and viewer; ``brokerctl audit gc`` opens the log if no broker has it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from broker.authority.audit.names import Namer, Names
from broker.core.errors import SetupError, UpstreamError

_KEY_BYTES = 32


def load_namer(setting: Names, log: Path, *, clipboard_digest: bool = False) -> Namer:
    """Return the namer of a log; create its key if none exists.

    Raises SetupError for a key file that is not ours, UpstreamError
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
            f"cannot use the key for names in the audit log: {error.strerror}",
            where=str(path),
            hint="check that you can read and write the file, that it is not a link, and that its disk has space",
        ) from error
    if len(key) != _KEY_BYTES:
        raise SetupError(
            "is not the key for names in the audit log",
            where=str(path),
            hint="to have a new key, move the file away and start the broker again; names then have other hashes than in earlier events",
        )
    return Namer(setting, key, clipboard_digest=clipboard_digest)
