"""A process of its own that takes an edit back unless it was confirmed.

    python broker broker.cli.policy.undo FILE SHA256 SECONDS

FILE is a copy in the runtime directory, in force only because it stands before
the permanent one.  When the time is over and the file is still that one, it is
removed.  This lives on when brokerctl is killed or its terminal goes; when the
machine goes, the runtime directory goes with it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path


def undo(file: Path, digest: str, deadline: float) -> bool:
    """Wait until ``deadline`` (CLOCK_BOOTTIME) and remove the file if it is that one."""
    while (left := deadline - time.clock_gettime(time.CLOCK_BOOTTIME)) > 0:
        time.sleep(min(left, 1.0))
        if not file.exists():
            return False  # it was confirmed or taken back already
    return take_back(file, digest)


def take_back(file: Path, digest: str) -> bool:
    """Remove the file if it is still the one with this digest."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as opened:
            same = hashlib.sha256(opened.read()).hexdigest() == digest
    except FileNotFoundError:
        return False
    if same:
        file.unlink(missing_ok=True)
    return same


if __name__ == "__main__":
    after = time.clock_gettime(time.CLOCK_BOOTTIME) + float(sys.argv[3])
    undo(Path(sys.argv[1]), sys.argv[2], after)
