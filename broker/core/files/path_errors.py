"""Errors of the kernel about a path, as errors for users.

brokerctl, session children and the program that starts a broker turn an OSError into
these.
"""

from __future__ import annotations

import errno
import os

from broker.core.errors import SetupError
from broker.core.escape import printable

_OF_PATHS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
        *(errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EXDEV),
        *(errno.EEXIST, errno.ENXIO),
    }
)
"""Errors of a path that a user named, or of a directory of the user's: where, and why."""

_PATH_CHARACTERS = 1000


def place_of(error: OSError) -> str:
    """Return the path that an error names, as it can be sent and shown; empty: none.

    Its name is any bytes, and may be a sandbox's choice; of an operation on a
    descriptor it is the number.
    """
    name = error.filename
    if not isinstance(name, str | bytes):
        return ""
    # guard: an error of the kernel shows no raw path
    return printable(os.fsdecode(name), _PATH_CHARACTERS)


def path_error(error: OSError) -> SetupError | None:
    """Return the error for users of a path that they named, or may mend; None for others."""
    place = place_of(error)
    if error.errno not in _OF_PATHS or not place:
        return None
    hint = "check that the path exists and who may read and write it"
    if error.errno == errno.EROFS:
        hint = "its file system is mounted read-only: use another directory, or mount it to be written"
    return SetupError(f"{place}: {error.strerror}", hint=hint)
