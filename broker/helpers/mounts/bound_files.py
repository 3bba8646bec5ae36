"""The user's files that a sandbox sees: opened first, compared when they are mounted.

bubblewrap and systemd-nspawn are given paths, and resolve them themselves, some time
after they were looked at.  Another sandbox that may write to a directory above one of
them can put a link there meanwhile, and this one would see a directory of the user's
that no record names.

brokerctl opens and compares them for boxes and containers, a session child for services
of the user's desktop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.helpers.mounts.opened import open_inside, open_without_links
from broker.helpers.mounts.tool import mount_number


class BoundFiles:
    """What a sandbox is to see, held open until ``opened`` is closed."""

    def __init__(
        self,
        binds: Iterable[Path],
        without_links: Mapping[Path, Path],
        opened: ExitStack,
    ) -> None:
        """Open all files that are bound.

        ``without_links``: where those are that lead through links of the user's.
        Raises RefusedError where one leads through another link.
        """
        self._held: dict[Path, int] = {}
        for path in binds:
            found = without_links.get(path, path)
            try:
                self._held[path] = open_without_links(str(found), kind=0)
            except OSError as error:
                raise _changed(path, error) from error
            opened.callback(os.close, self._held[path])

    def check(self, leader: int) -> None:
        """Compare the open files with the mounts of the sandbox's first process.

        Raises RefusedError where something else is mounted.
        """
        with ExitStack() as opened:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            root = os.open(f"/proc/{leader}/root", flags)
            opened.callback(os.close, root)
            mounts = set[str]()
            for path, held in self._held.items():
                try:
                    there = open_inside(root, str(path))
                except OSError as error:
                    raise _changed(path, error) from error
                opened.callback(os.close, there)
                # guard: what is mounted in a sandbox is what was looked at
                if not os.path.samestat(os.fstat(held), os.fstat(there)):
                    raise _changed(path)
                mounts.add(mount_number(there))
        # Below a directory that this one has, too, the other can rename the file with its
        # mount, and put the right one in its place: no mount is on that one.
        # guard: each bound path has a separate mount
        if len(mounts) != len(self._held):
            raise _changed(next(iter(self._held)))


def _changed(path: Path, error: OSError | None = None) -> RefusedError:
    """Return the error for a path that another sandbox may have changed."""
    reason = "" if error is None else f": {error.strerror}"
    return RefusedError(
        f"cannot bind {printable(str(path), 200)}: another sandbox may have changed the path during the start{reason}",
        hint="check the directories above it, and start the sandbox again",
    )
