"""``org.freedesktop.portal.Trash``: files of this sandbox go to its own trash.

GLib asks the portal if ``GTK_USE_PORTAL`` is set, and does not move the file itself then.
Sources: the documentation of XDG Desktop Portal; the trash specification 1.0.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from typing import TYPE_CHECKING

from shims.files.bus_service import BusInterface, CallError, own_descriptor, path_of

if TYPE_CHECKING:
    from typing import Any, ClassVar, Tuple

    from shims.files.bus_messages import BusMessage
    from shims.files.bus_service import Values

TRASH = "org.freedesktop.portal.Trash"
TRASHED = 1
# An entry's file of information has its name and 10 more bytes; a number may be added.
NAME_BYTES = 255 - len(".trashinfo") - 8
OCTAL = re.compile(rb"\\([0-7]{3})")  # white space and backslashes in mountinfo
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class PortalTrash(BusInterface):
    """Moves the file of a descriptor to the trash."""

    interface = TRASH
    facts: ClassVar[Values] = {"version": ("u", 1)}

    def _trash(self, call: BusMessage) -> Tuple[Any, ...]:
        """Move a program's file.  Raises CallError.

        The error is not the specification's value 0, which GLib does not read.
        """
        fd = own_descriptor(call, call.body[0])
        try:
            move_to_trash(fd)
        except OSError as error:
            text = f"not moved to the trash: {error.strerror}"
            raise CallError("portal.Error.Failed", text) from None
        finally:
            os.close(fd)
        return (TRASHED,)


def move_to_trash(fd: int) -> None:
    """Move an open file or directory to the trash of its mount point.

    Raises CallError if its program may not, and OSError.
    """
    path = path_of(fd)
    require_write_access(fd, path)
    parent = os.open(os.path.dirname(path), DIRECTORY)
    try:
        name = os.path.basename(path)
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        # guard: the file in the trash is the one of the descriptor
        if not os.path.samestat(status, os.fstat(fd)):
            raise CallError("portal.Error.NotAllowed", "the file was moved meanwhile")
        trash, recorded = trash_for(path)
        add_to_trash(trash, recorded, name, parent)
    finally:
        os.close(parent)


def require_write_access(fd: int, path: str) -> None:
    """Raise CallError if the program's descriptor shows less access than we have.

    A program of Flatpak in this sandbox may have its files on a read-only mount.
    """
    regular = stat.S_ISREG(os.fstat(fd).st_mode)
    writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    read_only_mount = os.fstatvfs(fd).f_flag & os.ST_RDONLY
    # GLib opens a file for reading only if it may not write to it.
    # guard: the portal moves no file that its program can only read
    if read_only_mount or (regular and not writable and os.access(path, os.W_OK)):
        raise CallError("portal.Error.NotAllowed", "the program may only read the file")


def trash_for(path: str) -> Tuple[str, str]:
    """Return the trash directory for a file, and the path that is recorded there.

    That of the home if both are on one mount, otherwise one at the mount point.
    Raises OSError.
    """
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    trash = os.path.join(data, "Trash")
    os.makedirs(trash, 0o700, exist_ok=True)
    top = mount_point(path)
    if top == mount_point(os.path.realpath(trash)):
        return trash, path
    trash = os.path.join(top, f".Trash-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(trash, 0o700)
    status = os.lstat(trash)
    # guard: a trash directory in a shared folder is a directory of this user
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise CallError(
            "portal.Error.NotAllowed", f"{trash} is not a directory of ours"
        )
    return trash, os.path.relpath(path, top)


def mount_point(path: str) -> str:
    """Return where the mount of a file is: it may be a bind of the same file system."""
    with open("/proc/self/mountinfo", "rb") as file:
        escaped = [line.split()[4] for line in file]
    points = [
        OCTAL.sub(lambda code: bytes([int(code[1], 8)]), point) for point in escaped
    ]
    parent = os.path.join(os.path.dirname(os.fsencode(path)), b"")
    above = [point for point in points if parent.startswith(os.path.join(point, b""))]
    return os.fsdecode(max(above, key=len))


def add_to_trash(trash: str, recorded: str, name: str, parent: int) -> None:
    """Add an entry: its information first, then the file.  Raises OSError."""
    from urllib.parse import quote

    for part in ("files", "info"):
        os.makedirs(os.path.join(trash, part), 0o700, exist_ok=True)
    date = time.strftime("%Y-%m-%dT%H:%M:%S")
    text = f"[Trash Info]\nPath={quote(os.fsencode(recorded))}\nDeletionDate={date}\n"
    info, target = claim_entry(trash, name)
    try:
        with open(info, "w", encoding="ascii") as file:
            file.write(text)
        os.rename(name, target, src_dir_fd=parent)
    except OSError:
        os.unlink(info)
        raise


def claim_entry(trash: str, name: str) -> Tuple[str, str]:
    """Create the information of an unused entry; return its path and the file's."""
    entry = stem = os.fsdecode(os.fsencode(name)[:NAME_BYTES])
    number = 1
    while True:
        target = os.path.join(trash, "files", entry)
        info = os.path.join(trash, "info", f"{entry}.trashinfo")
        if not os.path.lexists(target):
            with contextlib.suppress(FileExistsError), open(info, "x"):
                return info, target
        number += 1
        entry = f"{stem}.{number}"
