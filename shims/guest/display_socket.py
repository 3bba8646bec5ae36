"""The socket of an X display, and the lock by which X servers avoid each other's.

An X server takes the first number whose lock it can make, and replaces the socket of it,
whoever listens there (Xserver(1), ``/tmp/.Xn-lock``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import NamedTuple

X_SOCKETS = "/tmp/.X11-unix"
_OF_EVERYBODY = 0o022


class BoundDisplay(NamedTuple):
    """A display's listening socket, its number, and the other name of its place."""

    listener: socket.socket
    number: int
    reserved: socket.socket
    """The abstract name, which nobody else can take while this one is open.

    libxcb (``_xcb_open_abstract``) connects to it first, and to the file where nobody
    listens: another program's display would get the programs and their cookie.
    """


def bind_display(directory: str = X_SOCKETS) -> BoundDisplay:
    """Listen as the first free display, under both of its names.

    Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o1777)
        os.chmod(directory, 0o1777)
    _require_own(directory)
    for number in range(100):
        path, lock = _paths(number, directory)
        with contextlib.suppress(OSError):
            _lock(lock)
            listener, reserved = (
                socket.socket(socket.AF_UNIX),
                socket.socket(socket.AF_UNIX),
            )
            try:
                # guard: nobody else has the abstract name of our X display
                reserved.bind(f"\0{path}")
                if _is_dead(path):
                    os.unlink(path)
                listener.bind(path)
                listener.listen(64)
            except OSError:
                listener.close()
                reserved.close()
                os.unlink(lock)
                raise
            return BoundDisplay(listener, number, reserved)
    raise OSError("all 100 X displays are in use")


def _require_own(directory: str) -> None:
    """Refuse a directory in which another user could replace our socket.

    Raises OSError.
    """
    found = os.lstat(directory)
    owners = {0, os.geteuid()}
    if not _knows_root():
        owners.add(65534)  # root of the machine, in a container's user namespace
    # guard: the directory of X sockets is root's or ours
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:
        raise OSError(
            f"{directory} belongs to the user with the number {found.st_uid}, who could take "
            f"over X11 windows; as root, run: chown root {directory}; chmod 1777 {directory}"
        )
    if found.st_mode & _OF_EVERYBODY and not found.st_mode & stat.S_ISVTX:
        raise OSError(
            f"everybody may replace sockets in {directory}; as root, run: "
            f"chmod 1777 {directory}"
        )


def _knows_root() -> bool:
    """Return whether the machine's own numbers of users are seen here."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def remove_display(number: int, directory: str = X_SOCKETS) -> None:
    """Remove a display's socket and lock."""
    for path in _paths(number, directory):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _paths(number: int, directory: str) -> tuple[str, str]:
    lock = os.path.join(os.path.dirname(directory), f".X{number}-lock")
    return f"{directory}/X{number}", lock


def _lock(path: str) -> None:
    """Make a lock that names this process.  Raises OSError where another one holds it."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        try:
            # Process 1 is there for a lock that names none.
            os.kill(max(1, int(_read_lock(path))), 0)
        except ProcessLookupError:
            os.unlink(path)
        except OverflowError:
            raise FileExistsError(errno.EEXIST, "it names no process", path) from None
    written = f"{path}.{os.getpid()}"
    try:
        with open(written, "x", encoding="ascii") as file:
            file.write(f"{os.getpid():10}\n")
        # Whole from its first moment: servers take a lock that they cannot read for stale.
        # guard: a display that an X server has locked is not taken
        os.link(written, path)
    finally:
        os.unlink(written)


def _read_lock(path: str) -> bytes:
    """Return the beginning of a lock, which another user may have made.  Raises OSError."""
    # guard: another user's X lock holds up no start
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileExistsError(errno.EEXIST, "it is not a file", path)
        return os.read(fd, 11)
    finally:
        os.close(fd)


def _is_dead(path: str) -> bool:
    """Return whether nobody listens on a socket: its program was killed.

    A connection would start a server that waits for one, as Xwayland or another agent's
    bridge, and wait where many do: a stream's socket refuses one of datagrams.
    """
    # guard: looking for a free X display starts no server
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED
