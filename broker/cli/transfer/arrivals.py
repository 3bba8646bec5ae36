"""Move files that a sandbox sent to the target of ``brokerctl cp``.

They arrive below ``~/Incoming/SOURCE`` by the transfer's own rules and checks.  From
there only the names that the user typed are moved: a sandbox chooses the content of
these, but not which names appear in a directory of the user's.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

from broker.cli.transfer.named_files import open_named_directory
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.files.planted_links import INCOMING, incoming_folder
from broker.core.files.rename import RENAME_NOREPLACE, rename_at
from broker.core.files.trees import remove_tree
from shims.files.incoming_files import EntryStore
from shims.files.protocol import TransferError
from shims.files.sending import Walk, open_without_links

_Identity = tuple[int, int]
_NOFOLLOW = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Arrivals:
    """Entries below ``~/Incoming`` now, so that later ones are known."""

    def __init__(self, target: Path, writable: Sequence[Path]) -> None:
        """Open the directory for the copies.  Raises RefusedError.

        ``writable`` are the directories that sandboxes may write to.
        """
        self._writable = writable
        # Otherwise a sandbox chooses a directory for a file of its content.
        # guard: the target of a copy is the directory that was checked
        _, self._target = open_named_directory(target, writable)
        top = Path.home() / INCOMING
        self._before = {
            identity
            for folder in _entries(top)
            for identity in _entries(top / folder).values()
        }

    def move(self, source: str, names: Sequence[str]) -> list[Path]:
        """Move arrivals of ``source`` under these names; return the new paths.

        A name that arrived as ``NAME (2)``, because ``NAME`` was there, counts too.
        Raises RefusedError if the target has such a name, or nothing has come under one
        of the names; the arrivals stay below ``~/Incoming`` then.
        """
        folder = incoming_folder(source, self._writable)
        _, fd = open_named_directory(folder, self._writable)
        try:
            fresh = [
                name
                for name, identity in _entries(fd).items()
                if identity not in self._before
            ]
            moved = list[Path]()
            for name in names:
                arrived = next((one for one in fresh if _is(one, name)), None)
                if arrived is None:
                    raise RefusedError(
                        f"no file or directory named '{printable(name, 100)}' has "
                        f"arrived from '{source}'",
                        hint=f"to see the files that have arrived, run 'ls {folder}'",
                    )
                moved.append(_move(folder / arrived, fd, source, self._target, name))
            return moved
        finally:
            os.close(fd)


def _is(arrived: str, name: str) -> bool:
    stem, dot, ending = name.partition(".") if name[:1] != "." else (name, "", "")
    pattern = rf"{re.escape(stem)} \([0-9]+\){re.escape(dot + ending)}"
    return arrived == name or re.fullmatch(pattern, arrived) is not None


def _entries(folder: Path | int) -> dict[str, _Identity]:
    """Return the names in a directory with identities; none if it does not exist."""
    identities = dict[str, _Identity]()
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                info = entry.stat(follow_symlinks=False)
                identities[entry.name] = (info.st_dev, info.st_ino)
    except (FileNotFoundError, NotADirectoryError):
        return identities
    return identities


def _move(arrived: Path, folder: int, source: str, target: int, name: str) -> Path:
    """Move a received copy into an opened directory; return its new path.

    Raises RefusedError.
    """
    old, new = (Path(f"/proc/self/fd/{fd}") for fd in (folder, target))
    hint = f"move the received copy, {arrived}, to another place"
    try:
        try:
            # guard: a copy from a sandbox replaces nothing
            rename_at(old / arrived.name, new / name, RENAME_NOREPLACE)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if os.path.lexists(new / name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            name = _copy_across(arrived, source, new)
    except (OSError, TransferError) as error:
        # Where the directory is now: a sandbox may have renamed it meanwhile.
        place = new.readlink() / name
        if isinstance(error, FileExistsError):
            text = f"{place} already exists and was not replaced"
            raise RefusedError(text, hint=hint) from error
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise RefusedError(
            f"cannot write {place}: {reason}",
            hint=hint,
        ) from error
    return new.readlink() / name


def _copy_across(arrived: Path, source: str, target: Path) -> str:
    """Move a received copy to another file system; return its name there.

    Raises OSError, TransferError.
    """
    walk = Walk([str(arrived)], follow=False)
    store = EntryStore(str(target), source, 0)
    try:
        for inside, path, size in walk.found:
            if size < 0:
                store.directory(inside)
                continue
            with os.fdopen(open_without_links(path, _NOFOLLOW), "rb") as file:
                store.file(inside, size, file)
        (name,) = store.finish()
    finally:
        store.close()
    if arrived.is_dir():
        remove_tree(arrived)
    else:
        arrived.unlink()
    return name
