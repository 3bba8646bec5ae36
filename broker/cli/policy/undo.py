"""The process that reverts an edit unless it is confirmed.

    python broker broker.cli.policy.undo FILE SHA256 SECONDS

FILE is a copy in the runtime directory, which takes precedence over the permanent
file.  When the time is over and the file is still that copy, it is removed.  This
process outlives brokerctl and its terminal; when the machine stops, the runtime
directory is removed, too.  Where a service manager stops the unit that started it
('brokerctl allow --watch'), it removes the file at once.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path


def undo(file: Path, digest: str, deadline: float) -> bool:
    """Wait until ``deadline`` (CLOCK_BOOTTIME), then remove the file if unchanged."""
    while (left := deadline - time.clock_gettime(time.CLOCK_BOOTTIME)) > 0:
        time.sleep(min(left, 1.0))
        if not file.exists():
            return False  # it was confirmed or taken back already
    return take_back(file, digest)


def take_back(file: Path, digest: str) -> bool:
    """Remove the file if it is still the one with this digest; False otherwise.

    False also where the file is missing, a link, or cannot be read.
    """
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as opened:
            same = hashlib.sha256(opened.read()).hexdigest() == digest
    except OSError:
        return False
    if same:
        file.unlink(missing_ok=True)
    return same


if __name__ == "__main__":
    changed = Path(sys.argv[1]), sys.argv[2]
    for ending in (signal.SIGTERM, signal.SIGHUP):
        # guard: a line for one call goes with the process that removes it
        signal.signal(ending, lambda *_: sys.exit(take_back(*changed)))
    after = time.clock_gettime(time.CLOCK_BOOTTIME) + float(sys.argv[3])
    undo(*changed, after)
