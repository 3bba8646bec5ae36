"""Logs of sandboxes that have ended: the newest are kept.

Host and viewer each write some (console, programs), on two machines each on
its disk, so each removes the logs that it wrote.

The host and the viewer call it, each for the logs that it wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from broker.core.errors import UpstreamError
from broker.core.files.trees import remove_tree

KEPT = 32
"""Sandboxes that have ended and whose logs are kept."""


def prune_logs(
    directory: Path, keep: int, running: Callable[[], Collection[str]] = frozenset
) -> None:
    """Remove the logs of all but the ``keep`` newest sandboxes that have ended.

    Disposables have a new name each time, so their logs would pile up.  The
    logs of those that are ``running`` stay, however old: a directory's time is
    that of its last new file.  To be called in a thread: a viewer that was taken over
    may have left any number of entries, and ``running`` is called after they are read.

    Raises UpstreamError when the directory cannot be read.
    """
    logs: list[tuple[float, str]] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                # Host and viewer remove at the same time.
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        logs.append((entry.stat().st_mtime, entry.name))
                    else:
                        # No log of ours, and listed by each later start.
                        # guard: files that a viewer left among logs cost one start
                        Path(entry).unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UpstreamError(
            f"cannot list the logs in {directory}: {error.strerror}"
        ) from error
    now = running()
    ended = sorted(log for log in logs if log[1] not in now)
    for _, old in ended[: max(0, len(ended) - keep)]:
        # guard: what a viewer that was taken over left among logs ends no later broker
        remove_tree(directory / old)
