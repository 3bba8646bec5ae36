"""Unpack a bzImage into the kernels' cache: a launch tool, which then ends.

It opens the unpacked file and gives it its name; a forked process, confined before it
reads the kernel, fills it: ``bzimage``.

The host starts it when a machine's kernel is not in the cache.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from broker.core.errors import SetupError
from broker.core.files.replace_file import whole_file
from broker.helpers.forked_part import fork_part

_KEPT = 4
"""Unpacked kernels in the cache: a kernel that was dropped is unpacked again."""


def unpack_kernel(number: str, path: str) -> None:
    """Unpack the kernel of a descriptor into the cache; exit with a message on failure."""
    kernel, target = int(number), Path(path)
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with whole_file(target) as unpacked:
            _fill(kernel, unpacked.fileno())
        _drop_oldest(target.parent)
    except (SetupError, OSError) as error:
        sys.exit(str(error))


def _fill(kernel: int, target: int) -> None:
    """Unpack a kernel in a forked, confined process; exit where that fails."""

    def run() -> None:
        # Late, in the forked process: its parent keeps the user's rights to the end and
        # never needs the decompressors, so it does not load them.  The import opens
        # files, so it comes before the filter, which write_unpacked installs before it
        # reads the kernel.  A separate program would begin with the user's rights, too,
        # and start a second interpreter.
        from broker.host.images.bzimage import write_unpacked

        write_unpacked(kernel, target)

    part = fork_part("unpack", run)
    if os.waitstatus_to_exitcode(os.waitpid(part.pid, 0)[1]):
        sys.exit(1)


def _drop_oldest(folder: Path) -> None:
    """Remove the unpacked kernels that were not used for the longest time."""
    # By their last use.  A machine that runs has read its kernel; a machine that starts this
    # moment and finds it gone says so, and its next start unpacks it.
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in kept[:-_KEPT]:
        path.unlink(missing_ok=True)
