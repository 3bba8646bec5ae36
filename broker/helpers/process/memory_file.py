"""A file in memory, for a program that reads it by its number."""

from __future__ import annotations

import os
from contextlib import ExitStack


def memory_file(stack: ExitStack, data: bytes) -> int:
    """Return a descriptor of a file with this content, which ``stack`` closes."""
    fd = os.memfd_create("vitrail", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
