"""Files of policy as they are read: the owner, the mode, the size; proposed changes.

The authority, brokerctl and session children read by this.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from policy import limits
from policy.errors import WHOLE_FILE, Problem

Overlay = Mapping[str, bytes | None]
"""Proposed changes of files, by their absolute path (normalised): new content, or
None for a file to be removed."""

NOTHING: Overlay = MappingProxyType({})


def overlaid(directory: Path, overlay: Overlay) -> dict[str, bool]:
    """Return the names of a directory's files that an overlay changes.

    False: the overlay removes the file.
    """
    inside = os.path.normpath(directory) + os.sep
    return {
        path.removeprefix(inside): content is not None
        for path, content in overlay.items()
        if path.startswith(inside) and os.sep not in path.removeprefix(inside)
    }


def problem_of_file(path: Path, message: str, hint: str = "") -> Problem:
    """Return a problem with a file as a whole."""
    return Problem(str(path), WHOLE_FILE, message, hint=hint)


def wrong_owner(path: Path, info: os.stat_result) -> Problem | None:
    """Return a problem unless root or this user alone owns and writes a record."""
    if info.st_uid not in {0, os.geteuid()}:
        return problem_of_file(
            path,
            f"is owned by user {info.st_uid}, not by root or by you",
            f"chown or remove {path}",
        )
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return problem_of_file(
            path,
            f"is writable by others (mode {stat.S_IMODE(info.st_mode):04o})",
            f"chmod go-w {path}",
        )
    return None


def unreadable(path: Path, error: OSError) -> Problem:
    """Return the problem that a file or directory cannot be read."""
    hint = ""
    if isinstance(error, PermissionError):
        # A running broker opens what was in its settings when it started (Landlock).
        hint = "if you can read the file, restart the broker: 'brokerctl stop --broker'"
    return problem_of_file(path, f"cannot be read: {error.strerror}", hint)


def read_file(
    path: Path, *, check_owner: bool, most: int = limits.FILE_BYTES
) -> bytes | Problem:
    """Read a regular file by one descriptor, or return why it must not be used.

    A file of more than ``most`` bytes is a problem.
    """
    try:
        # O_NONBLOCK: a FIFO of that name must not stop the broker.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return problem_of_file(path, "is not a regular file")
            wrong = wrong_owner(path, info) if check_owner else None
            content = file.read(most + 1)
    except OSError as error:
        return unreadable(path, error)
    if len(content) > most:
        wrong = wrong or problem_of_file(path, f"has more than {most} bytes")
    return wrong or content
