"""Errors of the kernel about a path, as errors for users."""

from __future__ import annotations

import errno
import os

from broker.core.errors import SetupError

_OF_PATHS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
        *(errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EXDEV),
        *(errno.EEXIST, errno.ENXIO),
    }
)
"""Errors of a path that a user named, or of a directory of the user's: where, and why."""


def path_error(error: OSError) -> SetupError | None:
    """Return the error for users of a path that they named, or may mend; None for others."""
    if error.errno not in _OF_PATHS or not isinstance(error.filename, str | bytes):
        return None
    return SetupError(
        f"{os.fsdecode(error.filename)}: {error.strerror}",
        hint="check that the path exists and who may read and write it",
    )
