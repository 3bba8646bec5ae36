"""Logs of sandboxes that have ended: the newest are kept.

Host and viewer each write some (console, programs), on two machines each on
its disk, so each removes the logs that it wrote.
"""

from __future__ import annotations

from pathlib import Path

from broker.core.errors import UpstreamError
from broker.core.files.trees import remove_tree

KEPT = 32
"""Sandboxes that have ended and whose logs are kept."""


def prune_logs(
    directory: Path, *, keep: int, running: frozenset[str] = frozenset()
) -> None:
    """Remove the logs of all but the ``keep`` newest sandboxes that have ended.

    Disposables have a new name each time, so their logs would pile up.  The
    logs of those that are ``running`` stay, however old: a directory's time is
    that of its last new file.  Raises UpstreamError when it cannot be read.
    """
    try:
        ended = [path for path in directory.iterdir() if path.name not in running]
        logs = sorted(ended, key=lambda path: path.stat().st_mtime)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UpstreamError(f"cannot list {directory}: {error.strerror}") from error
    for old in logs[: max(0, len(logs) - keep)]:
        # guard: what a viewer that was taken over left among logs ends no later broker
        remove_tree(old)
