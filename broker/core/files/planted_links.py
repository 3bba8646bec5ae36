"""Paths that the user names, where a sandbox may have put a link.

A sandbox that may write to a directory of the user's can leave a symbolic link in it
under a harmless name (``report.pdf`` to ``~/.ssh/id_ed25519``).  The user opens, copies
or edits it, and our programs would follow it with the user's rights: the sandbox would
get the key, or the edited file would take the place of ``~/.bashrc``.

A link is refused by the directory that it is in, and not by its owner: programs in boxes
have the user's own user id.

brokerctl checks paths of its command line and of records by this, session children
files and folders of the user's calls.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from broker.core.errors import RefusedError
from broker.core.escape import printable

if TYPE_CHECKING:
    from broker.core.paths import Paths

INCOMING = "Incoming"
"""The directory of the user's home in which files of sandboxes arrive."""
_HOPS = 40
"""Links that one path may lead through, as path_resolution(7) has it."""


def named_path(path: Path, writable: Iterable[Path]) -> Path:
    """Resolve links in a path; return it without them.

    ``path`` is absolute; ``writable`` are directories that sandboxes may write to.
    Raises RefusedError where a link in one of these leads out of it.
    """
    found, left = _walked(path, writable)
    for place, link in left:
        # guard: a sandbox's link does not lead to the user's files
        if not found.is_relative_to(place):
            _refuse(path, link, found)
    return found


def refuse_links(path: Path, writable: Iterable[Path]) -> Path:
    """Return a path without links, for ``brokerctl run``.

    Raises RefusedError where it leads through any link in these directories.
    """
    found, left = _walked(path, writable)
    for _, link in left:
        _refuse(path, link, found)
    return found


def is_chosen_in(path: Path, place: Path) -> bool:
    """Return whether who may write to a directory may choose what is at a path.

    It is in that directory, contains it, or leads through a link in it.
    Raises RefusedError where it leads through too many links.
    """
    found, links = _walked(path, [place])
    place = Path(os.path.realpath(place))
    # guard: who may change a link has what it leads to
    if links:
        return True
    return found.is_relative_to(place) or place.is_relative_to(found)


def find_enclosing(path: Path, directories: Iterable[Path]) -> Path | None:
    """Return the directory that contains a path without links; None for none."""
    real = (Path(os.path.realpath(directory)) for directory in directories)
    return next((each for each in real if path.is_relative_to(each)), None)


def incoming_folder(sandbox: str, writable: Sequence[Path], *, hint: str = "") -> Path:
    """Return the directory for files of a sandbox, without links; create it if absent.

    ``writable`` and links are as of ``named_path``.  Raises RefusedError if a sandbox may
    write there, OSError.
    """
    path = named_path(Path.home() / INCOMING / sandbox, writable)
    shared = find_enclosing(path, writable)
    # guard: no file arrives in a directory to which a sandbox writes
    if shared is not None:
        raise RefusedError(
            f"cannot keep files in ~/Incoming/{sandbox}: a sandbox can write to {printable(str(shared), 200)}",
            hint=hint
            or "choose another directory for the sandbox that can write there",
        )
    # Each directory of the path is the user's alone, so that none becomes a link.
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def private_directory(path: Path, paths: Paths) -> Path | None:
    """Return a directory of the broker, if a path contains it or is in it.

    The audit key is there, the rules, and the images of other machines.
    """
    private = (paths.runtime, paths.state, paths.cache, paths.config[0])
    return next((root for root in private if is_chosen_in(root, path)), None)


def _refuse(path: Path, link: Path, found: Path) -> None:
    raise RefusedError(
        f"cannot follow {printable(str(path), 200)}: {printable(str(link), 200)} is a link that a sandbox may have created",
        hint=f"to use the target of the link, name it: {printable(str(found), 200)}",
    )


def _walked(
    path: Path, writable: Iterable[Path]
) -> tuple[Path, list[tuple[Path, Path]]]:
    """Return the path without links, and each link in one of the directories."""
    # "file:///%00" of a user's command line; every system call raises ValueError.
    # guard: a path with NUL is refused
    if "\0" in str(path):
        raise RefusedError(f"{printable(str(path), 200)} has a NUL character")
    places = [Path(os.path.realpath(place)) for place in writable]
    here, hops = Path("/"), 0
    todo = [part for part in reversed(str(path).split("/")) if part]
    left = []
    while todo:
        part = todo.pop()
        if part == "..":
            here = here.parent
            continue
        try:
            target = str((here / part).readlink())
        except OSError:  # not a link, or not there
            here = here / part if part != "." else here
            continue
        hops += 1
        if hops > _HOPS:
            raise RefusedError(
                f"{printable(str(path), 200)}: too many levels of symbolic links"
            )
        left += [(place, here / part) for place in places if here.is_relative_to(place)]
        here = Path("/") if target.startswith("/") else here
        todo += [part for part in reversed(target.split("/")) if part]
    return here, left
