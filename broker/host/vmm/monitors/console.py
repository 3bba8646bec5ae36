"""The serial console of a VMM that writes it to its standard output: a FIFO.

The VMM outlives the broker, and a pipe would end with it.  A FIFO has a name, so a
later broker reads on.  The VMM's end is open for reading, too, and does not block:
what no broker reads in time is lost, and the guest is never held up by it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import trio

from broker.core.errors import UpstreamError

_FLAGS = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def make_console(path: Path) -> int:
    """Make the FIFO and return the VMM's end, which the caller closes.

    The directory is ours and 0700.  Raises OSError.
    """
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | _FLAGS)


def open_console(path: Path) -> trio.lowlevel.FdStream:
    """Create the FIFO of the VMM's console; return our end.  Raises UpstreamError."""
    try:
        fd = os.open(path, os.O_RDONLY | _FLAGS)
    except OSError as error:
        raise UpstreamError(f"cannot open {path}: {error.strerror}") from error
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise UpstreamError(f"{path} is not a FIFO")
    return trio.lowlevel.FdStream(fd)
