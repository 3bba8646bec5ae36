"""The mount namespace of another process, without an event loop.

The host and session children open them; opening changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.core.errors import RefusedError
from broker.helpers.process.polled import lives


@contextmanager
def mount_namespace(pid: int, pidfd: int) -> Iterator[int]:
    """Yield a descriptor of the mount namespace of the process that ``pidfd`` holds.

    Raises RefusedError when it has ended, or is not this user's.
    """
    try:
        fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RefusedError(
            f"cannot open the sandbox's mount namespace: {error.strerror}"
        ) from error
    try:
        # Alive after it was opened: so it was opened of this process.
        # guard: the namespace is the sandbox's
        if not lives(pidfd):
            raise RefusedError("the sandbox has ended")
        # guard: never our own mount namespace
        if os.path.samestat(os.fstat(fd), Path("/proc/self/ns/mnt").stat()):
            raise RefusedError("the sandbox uses the mount namespace of this session")
        yield fd
    finally:
        os.close(fd)


def has_mount(pid: int, path: str) -> bool:
    """Return whether something is mounted at a path, as a process has it."""
    return any(mount[4] == os.fsencode(path) for mount in mount_table(pid))


def mount_table(pid: int) -> list[list[bytes]]:
    """Return the fields of each mount (proc(5), mountinfo); none where the process ended."""
    try:
        text = Path(f"/proc/{pid}/mountinfo").read_bytes()
    except OSError:
        return []
    # The kernel escapes blanks and newlines in a path, and no other white space.
    # guard: a mount's path is not taken for another mount
    lines = text.split(b"\n")
    return [line.split(b" ") for line in lines if line]
