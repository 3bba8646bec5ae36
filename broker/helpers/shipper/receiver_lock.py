"""The lock on a receiver: one process ships to it at a time.

The shipper takes it, and so does ``brokerctl audit ship``.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.core.errors import SetupError, UpstreamError


@contextmanager
def locked(directory: Path, name: str) -> Iterator[None]:
    """Hold the lock of shipping to a receiver.

    Raises SetupError when another process does, UpstreamError when the disk refuses.
    Creates the lock's file, which stays.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(
            directory / f"{name}.lock",
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
    except OSError as error:
        raise UpstreamError(f"cannot use {directory}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SetupError(
                f"another process is shipping to '{name}'",
                hint="to see the progress of the running broker, run 'brokerctl audit ship --status'",
            ) from error
        yield
    finally:
        os.close(fd)
