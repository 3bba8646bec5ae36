"""Move files that a sandbox sent to the target of ``brokerctl cp``.

They arrive below ``~/Incoming/SOURCE`` by the transfer's own rules and checks.  From
there only the names that the user typed are moved: a sandbox chooses the content of
these, but not which names appear in a directory of the user's.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from broker.cli.texts import tr
from broker.core.errors import RefusedError
from broker.core.escape import printable

INCOMING = "Incoming"
_Identity = tuple[int, int]


class Arrivals:
    """Entries below ``~/Incoming`` now, so that later ones are known."""

    def __init__(self, home: Path) -> None:
        self._top = home / INCOMING
        self._before = {
            identity
            for folder in _entries(self._top)
            for identity in _entries(folder).values()
        }

    def move(self, source: str, names: Sequence[str], target: Path) -> list[Path]:
        """Move arrivals of ``source`` under these names; return the new paths.

        A name that arrived as ``NAME (2)``, because ``NAME`` was there, counts too.
        Raises RefusedError if the target has such a name, or nothing has come under
        one of the names; the arrivals stay below ``~/Incoming`` then.
        """
        folder = self._top / source
        fresh = {
            path.name: path
            for path, identity in _entries(folder).items()
            if identity not in self._before
        }
        moved: list[Path] = []
        for name in names:
            arrived = next((fresh[one] for one in fresh if _is(one, name)), None)
            if arrived is None:
                raise RefusedError(
                    tr(
                        "no file or directory named '{name}' has arrived from '{source}'",
                        name=printable(name, 100),
                        source=source,
                    ),
                    hint=tr(
                        "to see the files that have arrived, run 'ls {folder}'",
                        folder=folder,
                    ),
                )
            place = target / name
            if os.path.lexists(place):
                raise RefusedError(
                    tr("{place} already exists and was not replaced", place=place),
                    hint=tr(
                        "move the received copy, {arrived}, to another place",
                        arrived=arrived,
                    ),
                )
            _move(arrived, place)
            moved.append(place)
        return moved


def _is(arrived: str, name: str) -> bool:
    stem, dot, ending = name.partition(".") if name[:1] != "." else (name, "", "")
    pattern = rf"{re.escape(stem)} \([0-9]+\){re.escape(dot + ending)}"
    return arrived == name or re.fullmatch(pattern, arrived) is not None


def _entries(folder: Path) -> dict[Path, _Identity]:
    """Return the entries of a directory with their identity; none where it is missing."""
    found: dict[Path, _Identity] = {}
    try:
        for path in sorted(folder.iterdir()):
            info = path.lstat()
            found[path] = (info.st_dev, info.st_ino)
    except (FileNotFoundError, NotADirectoryError):
        return found
    return found


def _move(arrived: Path, place: Path) -> None:
    """Move a received copy, also to another file system.  Raises RefusedError."""
    try:
        arrived.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise RefusedError(
                tr(
                    "cannot write {place}: {strerror}",
                    place=place,
                    strerror=error.strerror,
                ),
                hint=tr(
                    "move the received copy, {arrived}, to another place",
                    arrived=arrived,
                ),
            ) from error
        shutil.move(arrived, place)
