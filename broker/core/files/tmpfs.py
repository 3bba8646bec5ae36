"""Whether a descriptor lies on tmpfs, asked without waiting for a file system.

Workers ask this about a sandbox's descriptors, and each process that receives content
in a sealed file.
"""

from __future__ import annotations

import ctypes
import fcntl

_TMPFS_MAGIC = 0x01021994
"""``f_type`` of tmpfs and memfd, as statfs(2) lists it."""
_STATFS_BYTES = 256

_libc = ctypes.CDLL(None, use_errno=True)


# Descriptors of a sandbox are asked only what the kernel answers itself. `fstat` and
# `fstatfs` on a FUSE file wait for its server, and a sandbox can be that server; seen
# with a server that opens a file and then keeps silent. So F_GET_SEALS (tmpfs and
# hugetlbfs only), F_GETPIPE_SZ and SO_TYPE come first, which no file system is asked
# for. Closing such a file still waits for its server (FUSE_FLUSH): a sandbox can hold
# up its worker that way, and no other.
def filesystem_of(fd: int) -> int:
    """Return the magic number of a descriptor's file system.  Raises OSError.

    Python has no fstatfs; ``f_type`` is the first word of struct statfs on every Linux
    architecture that we run on.
    """
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(fd, buffer) != 0:
        raise OSError(ctypes.get_errno(), "fstatfs failed")
    return (
        ctypes.cast(buffer, ctypes.POINTER(ctypes.c_long)).contents.value & 0xFFFFFFFF
    )


def on_tmpfs(untrusted_fd: int) -> bool:
    """Return whether a file is on tmpfs; does not wait for any other file system.

    On a FUSE file, fstat(2) and fstatfs(2) wait for the process that serves it,
    which may never answer.  F_GET_SEALS is answered by the kernel alone, and only
    for tmpfs and hugetlbfs.
    """
    # guard: no file system is asked whether it is tmpfs
    try:
        fcntl.fcntl(untrusted_fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return filesystem_of(untrusted_fd) == _TMPFS_MAGIC
