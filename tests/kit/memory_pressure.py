"""Real memory pressure on this process's control group, where the user may make it.

By cgroup v1 its limit is lowered to little more than it uses, and a process that takes
more meets it.  By cgroup v2 the kernel is asked to reclaim all it can (memory.reclaim,
which is the user's since systemd 255 or where the group was made for the user).
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_ROOM = 32 << 20
_HOG = """
import os, sys
open("/proc/self/oom_score_adj", "w").write("1000")  # it is the one that is ended
held = []
for _ in range(64):
    held.append(os.urandom(1 << 16) * 128)
"""


def _group() -> tuple[Path, bool]:
    """Return this process's group that counts memory, and whether it is of v1."""
    rows = [
        line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().split()
    ]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for _, controllers, path in rows:
        if "memory" in controllers.split(","):
            roots = [m[1] for m in mounts if m[2] == "cgroup" and "memory" in m[3]]
            return Path(*roots[:1], path.lstrip("/")), True
    roots = [mount[1] for mount in mounts if mount[2] == "cgroup2"]
    paths = [path for number, _, path in rows if number == "0"]
    return Path(*roots[:1], *(path.lstrip("/") for path in paths)), False


def lacks_pressure() -> str:
    """Return why there can be no pressure here; empty: there can."""
    group, first = _group()
    file = group / ("memory.limit_in_bytes" if first else "memory.reclaim")
    if os.access(file, os.W_OK):
        return ""
    return f"{file} cannot be written: no group of the user's own counts memory here"


def press() -> None:
    """Have the kernel take back all memory of the group that it can."""
    group, first = _group()
    if first:
        _press_limit(group)
        return
    current = (group / "memory.current").read_text()
    try:
        (group / "memory.reclaim").write_text(current)
    except OSError as error:
        if error.errno != errno.EAGAIN:  # it has taken back less than all
            raise


def _press_limit(group: Path) -> None:
    limit, usage = group / "memory.limit_in_bytes", group / "memory.usage_in_bytes"
    before = limit.read_text()
    (group / "memory.force_empty").write_text("0")
    limit.write_text(str(int(usage.read_text()) + _ROOM))
    try:
        hog = subprocess.run([sys.executable, "-c", _HOG], check=False)
    finally:
        with suppress(ValueError):
            limit.write_text(before)
    assert hog.returncode == -9, f"no memory was lacking: {hog.returncode}"
