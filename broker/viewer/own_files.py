"""The files that the viewer opens itself once it is confined, each with its reason.

Everything else of the user's is ordered (``ipc.session``).  What the authority reads is
in none of the directories to write: records and rules (``sandboxes.d`` and ``policy.d``,
also below the runtime directory), kept rules, the lockdown, the phrase, the log.  So no
directory has both, and the viewer gets neither the runtime nor the state directory whole.
"""

from __future__ import annotations

import fcntl
import os
import time
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import policy
import shims
from broker.core.files.trees import remove_tree
from broker.core.files.zone_name import LOCALTIME
from broker.core.paths import Paths, require_private
from broker.helpers.forked_part import fork_part
from broker.viewer.sandboxes.time_zone import LOCALES
from broker.viewer.sound.levels import levels_folder

_ZONES = Path("/usr/share/zoneinfo")
_LEFT = "left-"
_LOCK_SECONDS = 1.0


class OwnFiles(NamedTuple):
    """Paths for the viewer's Landlock rules, each with its reason."""

    read: dict[Path, str]
    write: dict[Path, str]


def own_files(paths: Paths) -> OwnFiles:
    """Return the files, after making the directories to write to.

    A rule is for what is there as it is made.  Raises OSError, and SetupError as
    ``require_private``.
    """
    write = {
        paths.displays: "sockets on which sandboxes' keepers listen, one directory each",
        levels_folder(): "how loud a sandbox was: a number and a flag for each record",
        paths.state / "logs": "output of sandboxes' programs, and its deletion",
    }
    for directory in write:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Links out of /etc: the kernel asks for a rule about what they lead to.
    read = {path.resolve(): "the language of programs" for path in LOCALES}
    read[LOCALTIME.resolve()] = "the time zone of programs"
    for package in (policy, shims):
        read[Path(package.__file__ or "").parent] = "our code beside the broker's"
    read[_ZONES] = "a time zone that is chosen later"
    read[paths.state / "link"] = (
        "key and pinned host of the link, again at each connection; they are made before"
    )
    return OwnFiles(read, write)


def clear_displays(paths: Paths) -> None:
    """Empty the directory of keepers' sockets; a process removes its old content later.

    Called by the viewer's process before it is confined: a confined one cannot open a
    directory that an earlier viewer closed to its owner.  A second broker, which
    will not start, leaves the directory to the first.

    Raises OSError, and SetupError where others could put links there.
    """
    # Through a link of theirs, files of the user's would be removed.
    # guard: what is removed lies where the user alone makes directories
    require_private(paths)
    paths.displays.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never closed: the kernel unlocks it when this process has ended.
    held = _open(paths.displays)
    # guard: a second broker moves no sockets of the one that runs
    if not _locked(held):
        os.close(held)
        return
    with os.scandir(held) as entries:
        full = next(entries, None) is not None
    if full:
        # One rename, however many entries there are, and whatever they are.
        aside, fresh = (Path(mkdtemp(dir=paths.runtime, prefix=_LEFT)) for _ in "12")
        # Locked before it has its name, or a second broker could be faster.
        fcntl.flock(_open(fresh), fcntl.LOCK_EX)
        # guard: what a viewer left is in no later sandbox's way
        paths.displays.rename(aside)
        fresh.rename(paths.displays)
        os.close(held)
    if full or any(paths.runtime.glob(f"{_LEFT}*")):
        part = fork_part("vitrail-remover", partial(_remove_later, paths.runtime))
        os.close(part.pidfd)
        os.waitpid(part.pid, 0)


def _locked(directory: int) -> bool:
    """Lock a directory; wait a second for a broker that is about to end."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)  # flock(2) has no time limit
        else:
            return True


def _open(directory: Path) -> int:
    return os.open(directory, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _remove_later(runtime: Path) -> None:
    """Fork once more, so that the broker neither waits for the removal nor has a zombie."""
    # guard: a removal of many files delays no start
    if os.fork():
        return
    # Sockets and locks of the broker end with the broker.
    # guard: a removal keeps nothing of its broker open
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for left in runtime.glob(f"{_LEFT}*"):
        remove_tree(left)
