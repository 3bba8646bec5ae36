"""A file in memory, for a program that reads it by its number.

Session children and brokerctl make them for programs that they start.
"""

from __future__ import annotations

import os
from contextlib import ExitStack


def memory_file(stack: ExitStack, data: bytes) -> int:
    """Create a memory file with this content; ``stack`` closes its descriptor."""
    fd = os.memfd_create("vitrail", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
