"""Renames that replace nothing, or exchange two paths: renameat2(2).

The host and brokerctl change homes by it, and brokerctl moves what a sandbox has sent.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100


def rename_at(source: Path, target: Path, how: int) -> None:
    """Rename a path by renameat2(2) with the flags ``how``.  Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(source), os.fsencode(target)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], how) != 0:
        code = ctypes.get_errno()
        if code == errno.EEXIST:
            raise FileExistsError(code, os.strerror(code), str(target))
        raise OSError(code, os.strerror(code), str(source), None, str(target))
