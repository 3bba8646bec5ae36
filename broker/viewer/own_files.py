"""The files that the viewer opens itself once it is confined, each with its reason.

Everything else of the user's is ordered (``ipc.session``).  What the authority reads is
in none of the directories to write: records and rules (``sandboxes.d`` and ``policy.d``,
also below the runtime directory), kept rules, the lockdown, the phrase, the log.  So no
directory has both, and the viewer gets neither the runtime nor the state directory whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import policy
import shims
from broker.core.paths import Paths
from broker.viewer.sandboxes.time_zone import LOCALES, LOCALTIME
from broker.viewer.sound.levels import levels_folder
from broker.viewer.sound.mixer import desks_folder

_ZONES = Path("/usr/share/zoneinfo")


class OwnFiles(NamedTuple):
    """Paths for the viewer's Landlock rules, each with its reason."""

    read: dict[Path, str]
    write: dict[Path, str]


def own_files(paths: Paths) -> OwnFiles:
    """Return the files, after making the directories to write to.

    A rule is for what is there as it is made.  Raises OSError, and SetupError as
    ``desks_folder``.
    """
    write = {
        paths.displays: "sockets on which sandboxes' keepers listen, one directory each",
        desks_folder(): "the mixer's sockets, one for each sandbox that has sound",
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
