"""A directory that is to be shared: opened once, by a path without links, and checked.

The directory behind the descriptor is shared; a path that another program changes
afterwards has no effect.  Secrets are refused, whatever the rules say: a
sandbox that can read ``~/.ssh`` or the broker's own state is the user.

Session children open folders of permits by this, brokerctl those of a container's
record.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.files.opened_folder import OpenedFolder
from broker.core.files.planted_links import named_path
from broker.helpers.mounts.tool import cloned, opened_device

SYS_OPENAT2 = 437
_AT_FDCWD = -100
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x02, 0x04, 0x10
_FILE_SYSTEMS = {
    0x9FA0: "proc",
    0x62656572: "sysfs",
    0x1CD1: "devpts",
    0x27E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x73636673: "securityfs",
    0xCAFE4A11: "bpf",
    0x6E736673: "nsfs",
    # Answered by a process that may be slow, or another sandbox's.
    0x65735546: "FUSE",
}
_SYSTEM = ("boot", "dev", "etc", "proc", "root", "run", "sys", "usr")
_NAME_BYTES = 64
_libc = ctypes.CDLL(None, use_errno=True)


_FORMATS = MappingProxyType({b"QFI\xfb": "qcow2", b"KDMV": "VMDK", b"vhdx": "VHDX"})
"""Formats of images that QEMU would show to the guest as they are stored."""


def open_folder(
    path: str, home: Path, private: Sequence[Path], writable: Iterable[Path] = ()
) -> OpenedFolder:
    """Open a directory of the user's that is to be shared, after checks.

    ``private``: further directories that are never shared, nor what is above or below
    them.  ``writable``: those in which a sandbox may have made links, which are not
    followed.  Raises RefusedError where that is not a directory that may be shared.
    """
    if not path.startswith("/") or "\0" in path:
        raise RefusedError(f"{printable(path, 200)} is not an absolute path")
    # guard: a sandbox chooses no folder for another
    path = str(named_path(Path(path), writable))
    try:
        real = os.path.realpath(path, strict=True)
        fd = open_without_links(real)
    except OSError as error:
        raise RefusedError(
            f"cannot share {printable(path, 200)}: {error.strerror}",
            hint="specify an existing directory that you own",
        ) from error
    try:
        _refuse(Path(real), fd, home, private)
    except BaseException:
        os.close(fd)
        raise
    return OpenedFolder(Path(real), fd)


def open_image(
    path: str,
    tag: str,
    home: Path,
    private: Sequence[Path],
    writable: Iterable[Path] = (),
    *,
    write: bool,
) -> OpenedFolder:
    """Open a file of the user's that is to be a disk, after checks, and lock it.

    Only its first bytes are read.  The other arguments are as of ``open_folder``.  Raises
    RefusedError where that is not a file that may be one, or where it is in use.
    """
    shown = printable(path, 200)
    if not path.startswith("/") or "\0" in path:
        raise RefusedError(f"{shown} is not an absolute path")
    # guard: a sandbox chooses no disk for another
    path = str(named_path(Path(path), writable))
    held = tree = fd = -1
    try:
        real = os.path.realpath(path, strict=True)
        held = open_without_links(real, kind=0)
        device = _is_device(held, Path(real))
        reason = "" if device else _secret(Path(real), home, private) or _no_image(held)
        if reason:
            raise RefusedError(
                f"cannot use {shown} as a disk: {reason}",
                hint="specify a file of yours with the raw content of a disk",
            )
        if device:
            fd = opened_device(held, real, write=write)
            return OpenedFolder(Path(real), fd, tag=tag)
        # QEMU has the descriptor, and may be taken over: by its name in /proc it would
        # open the file again, to write.
        # guard: an image that is only read is opened on a read-only mount
        tree = held if write else cloned(held, real, write=False, kind=0)
        mode = os.O_RDWR if write else os.O_RDONLY
        fd = os.open(f"/proc/self/fd/{tree}", mode | os.O_CLOEXEC)
        # The lock is the descriptor's, and ends with QEMU's copy of it.
        # guard: an image that one sandbox writes is no other's
        fcntl.flock(fd, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        _close(fd)
        if error.errno == errno.EBUSY:
            raise RefusedError(
                f"cannot use {shown} as a disk: this machine or another sandbox uses the "
                "device, or a part of it",
                hint="unmount its file systems, or stop the other sandbox",
            ) from error
        if isinstance(error, BlockingIOError):
            raise RefusedError(
                f"cannot use {shown} as a disk: another sandbox or program uses it, and one of "
                "the two may change it",
                hint="stop the other one, or let both only read it",
            ) from error
        raise RefusedError(
            f"cannot use {shown} as a disk: {error.strerror}",
            hint="specify an existing file that you own, or a block device that you may open: "
            "'ls -l' shows its group, and 'sudo setfacl -m u:$USER:r DEVICE' gives it to you",
        ) from error
    finally:
        for one in {held, tree}:
            _close(one)
    image_format = _FORMATS.get(os.pread(fd, 4, 0))
    # guard: a guest gets the content of an image and not its container file
    if image_format is not None:
        _close(fd)
        raise RefusedError(
            f"cannot use {shown} as a disk: it is a {image_format} image, which the sandbox "
            "would see as it is stored",
            hint="convert your own image with 'qemu-img convert -O raw', but none that a "
            "sandbox has written, because its header may name other files of yours",
        )
    return OpenedFolder(Path(real), fd, tag=tag)


def _is_device(fd: int, path: Path) -> bool:
    """Return whether an opened file is a block device of this machine's own in /dev."""
    # Elsewhere is a node that somebody made, perhaps by mistake.
    # guard: a device is a disk by its name in /dev only
    return stat.S_ISBLK(os.fstat(fd).st_mode) and path.parts[1] == "dev"


def _no_image(fd: int) -> str:
    """Return why an opened file is no disk image of this user; empty if it is."""
    facts = os.fstat(fd)
    # A FIFO, whose opening would wait, a device, a directory.
    # guard: only an ordinary file is a disk
    if not stat.S_ISREG(facts.st_mode):
        return "it is neither an ordinary file nor a block device in /dev"
    return _foreign(facts, fd)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def open_without_links(path: str, kind: int = os.O_DIRECTORY) -> int:
    """Open a directory as O_PATH, through no link (openat2(2)).  Raises OSError.

    With 0 as ``kind`` the path may be anything's.
    """
    # guard: no link on the way to a shared folder
    resolve = _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    return _openat2(_AT_FDCWD, path, kind, resolve)


def open_inside(root: int, path: str) -> int:
    """Open a path as O_PATH, as a process with that root has it.  Raises OSError."""
    return _openat2(root, path, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)


def _openat2(above: int, path: str, kind: int, resolve: int) -> int:
    """Open a path by openat2(2); return an O_PATH descriptor.  Raises OSError."""
    how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC | kind, 0, resolve)
    fd = _libc.syscall(SYS_OPENAT2, above, os.fsencode(path), how, len(how))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return int(fd)


def _refuse(path: Path, fd: int, home: Path, private: Sequence[Path]) -> None:
    """Raise RefusedError where an opened directory must not be shared."""
    shown = printable(str(path), 200)
    reason = _secret(path, home, private) or _not_ours(fd)
    if reason:
        raise RefusedError(
            f"cannot share {shown}: {reason}",
            hint="share a directory that contains only files for the sandbox, such as ~/Downloads",
        )
    name = path.name
    plain = name.isprintable() and not name.startswith((".", "-"))
    if not plain or len(name.encode("utf-8", "surrogateescape")) > _NAME_BYTES:
        raise RefusedError(
            f"cannot share {shown}: its name begins with '.' or '-', is too long or not printable"
        )


def _secret(path: Path, home: Path, private: Sequence[Path]) -> str:
    """Return why a path must not be shared (home, hidden, private); empty if it may."""
    real = Path(os.path.realpath(home))
    # guard: the home is not shared
    if real.is_relative_to(path):
        return "it contains your home directory"
    # guard: hidden directories of the home are not shared
    if path.is_relative_to(real) and path.relative_to(real).parts[0].startswith("."):
        return "hidden directories of your home contain keys and settings"
    for other in map(os.path.realpath, private):
        # guard: the broker's directories are not shared
        if path.is_relative_to(other) or Path(other).is_relative_to(path):
            return f"it contains, or is inside, the broker's directory {other}"
    if path.parts[1] in _SYSTEM and not path.is_relative_to(real):
        return "it is a system directory"
    return ""


def _not_ours(fd: int) -> str:
    """Return why an opened file is not a directory of this user; empty if it is."""
    facts = os.fstat(fd)
    if not stat.S_ISDIR(facts.st_mode):
        return "it is not a directory"
    return _foreign(facts, fd)


def _foreign(facts: os.stat_result, fd: int) -> str:
    """Return why an opened file is not this user's; empty if it is."""
    # guard: only own directories are shared
    if facts.st_uid != os.getuid():
        return "it belongs to another user"
    kind = _FILE_SYSTEMS.get(_file_system(fd))
    # guard: no kernel file system is shared
    if kind is not None:
        return f"its file system is {kind}"
    return ""


def _file_system(fd: int) -> int:
    """``f_type`` of statfs(2), which works on O_PATH."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer) != 0:
        return 0x65735546  # not known: as bad as the worst
    return int(struct.unpack_from("l", buffer)[0]) & 0xFFFFFFFF
