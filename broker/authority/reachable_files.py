"""The files that an authority can open: its own, and not the user's.

Its settings are read, with the directories to which links in them lead when the broker
starts; its state and sockets are written; Python, our modules and their libraries are
read.  A taken-over authority decides everything, and still reads no key of the user's
and plants nothing in the home.  A kernel without Landlock leaves it the user's files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import policy
from broker.core.errors import SetupError
from broker.core.paths import Paths, require_private
from broker.helpers import landlock
from broker.helpers.process.program_files import program_files

_POLICY = Path(policy.__file__).parent
"""Our code of rules and records, and the rules that come with it."""
_SYSTEM = (Path("/etc"), Path("/proc/self/fdinfo"), Path("/proc/sys"))


def keep_to_own_files(paths: Paths, shipped: Path | None) -> None:
    """Confine this process, which has one thread, to its own files by Landlock.

    A rule is made for a directory that exists, so those of settings and state are made.
    Raises SetupError.
    """
    require_private(paths)
    for directory in (paths.runtime, paths.state, paths.config[0]):
        # The log reports a missing state directory; settings may be the system's.
        with suppress(OSError):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    read = [*program_files(), _POLICY, *_SYSTEM, *_settings(paths)]
    read += [] if shipped is None else [shipped]
    try:
        # guard: the authority opens no file of the user but its own
        landlock.restrict(read, [paths.runtime, paths.state], landlock.ABSTRACT_SOCKETS)
    except OSError as error:
        raise SetupError(
            f"cannot confine the authority to its files by Landlock: {error}",
            hint="to see what the kernel lacks, run 'brokerctl doctor'",
        ) from error


def replaced_settings(paths: Paths) -> list[str]:
    """Return a warning for each directory of settings that is another one by now.

    The rule is for the former one, so what the user may read the authority may not.
    """
    return [
        f"{directory} was replaced after the broker started, so its new content is not "
        "read: run 'brokerctl restart'"
        for directory in paths.config
        if os.access(directory, os.R_OK | os.X_OK) and not _can_list(directory)
    ]


def _can_list(directory: Path) -> bool:
    try:
        with os.scandir(directory):
            return True
    except OSError as error:
        return error.errno != errno.EACCES  # it may be gone by now


def _settings(paths: Paths) -> Iterator[Path]:
    """Yield the directories of settings, and those to which links in them lead."""
    home = Path.home().resolve()
    for directory in paths.config:
        yield directory
        for place, folders, files in os.walk(directory):
            found = (Path(place, name) for name in (*folders, *files))
            for target in (path.resolve() for path in found if path.is_symlink()):
                above = target if target.is_dir() else target.parent
                if home.is_relative_to(above):
                    above = target
                # guard: a link in the settings opens no home
                if not home.is_relative_to(above):
                    yield above
