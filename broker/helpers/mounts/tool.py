"""``attach``, ``detach`` and ``limit``: mounts a directory in a sandbox, without root.

Run as a separate process, because it changes its namespaces (setns(2)), which a
process with threads cannot.

The directory is cloned (open_tree(2)) in new user and mount namespaces, where an
ordinary user may; the clone is made read-only there before any sandbox sees it.  The
sandbox's mount namespace belongs to a user namespace that this user has made, so that
``setns`` into it gives the right to mount there.  The path inside is opened without
links and the mount is moved onto the descriptor (move_mount(2)), because the
sandbox can change every name.

The host starts it for each mount, and a session child for a folder that it serves; the
other importers only call its functions on descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

BASE = "/folders"
"""Where folders are, in every sandbox."""
HELD = 75
"""Exit code: a program of the sandbox has files of the folder open (EX_TEMPFAIL)."""
ABSENT = 66
"""Exit code: nothing is mounted there (EX_NOINPUT)."""

_SYS_OPENAT2, _SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 437, 428, 429, 442
_NEWNS, _NEWUSER = 0x20000, 0x10000000
_NS_GET_USERNS = 0xB701
_EMPTY_PATH = 0x1000
_F_EMPTY, _T_EMPTY = 0x4, 0x40
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PRIVATE = 1 << 18
_DETACH, _NOFOLLOW = 2, 8
_LIMIT = Path("/proc/sys/user/max_mnt_namespaces")
"""Of the reader's user namespace (namespaces(7))."""
_NO_LINKS = 0x06
_libc = ctypes.CDLL(None, use_errno=True)


def main(*argv: str) -> int:
    """Run ``attach``, ``detach`` or ``limit``; print the result.

    NAMESPACE and FOLDER are descriptors.  ``attach`` prints the mount's number.
    ``limit NAMESPACE``, of a user namespace: prints how many mount namespaces there may
    be in it.
    """
    try:
        if argv[0] == "attach":
            namespace, base, name, folder, path, mode = argv[1:]
            tree = cloned(int(folder), path, write=mode == "rw")
            number = mount_number(tree)  # the sandbox's /proc is not ours
            enter(int(namespace))
            attach(tree, base, name)
            sys.stdout.write(number)
            return 0
        if argv[0] == "limit":
            _check(
                _libc.setns(int(argv[1]), _NEWUSER), "its user namespace is not yours"
            )
            sys.stdout.write(_LIMIT.read_text(encoding="ascii"))
            return 0
        namespace, base, name, how = argv[1:]
        enter(int(namespace))
        return detach(base, name, lazily=how == "lazily")
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        return 1


def cloned(folder: int, path: str, *, write: bool, kind: int = os.O_DIRECTORY) -> int:
    """Return a detached mount of a directory, made by a child in separate namespaces.

    With 0 as ``kind``, of a file.

    Raises OSError.
    """
    return _made(partial(clone_tree, folder, path, write=write, kind=kind))


def opened_device(device: int, path: str, *, write: bool) -> int:
    """Return a descriptor of a block device, for which no other program can claim it.

    It is open on a mount without devices, by a child in separate namespaces: by its
    name in /proc nobody opens it again.  Raises OSError.
    """
    return _made(partial(_open_device, device, path, write=write))


def _made(make: Callable[[], int]) -> int:
    """Return the descriptor that a child makes, which may change its namespaces."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            socket.send_fds(theirs, [b"ok"], [make()])
        except OSError as error:
            code = struct.pack("i", error.errno or 0)
            theirs.send(code + (error.strerror or "failed").encode())
        os._exit(0)
    theirs.close()
    with ours:
        text, fds, _, _ = socket.recv_fds(ours, 200, 1)
    os.waitpid(child, 0)
    if not fds:
        number: int = struct.unpack("i", text[:4])[0] if text else 0
        # Of the class that the number has, as BlockingIOError.
        raise OSError(number, text[4:].decode(errors="replace") or "the helper ended")
    return fds[0]


def clone_tree(folder: int, path: str, *, write: bool, kind: int) -> int:
    """Clone a folder's mount tree; changes this process's namespaces.

    See ``cloned``.
    """
    tree = _copied(folder, path, kind)
    # guard: a shared folder has no setuid and no devices
    attributes = _ATTR_NOSUID | _ATTR_NODEV
    if not write:
        # guard: a shared folder is read-only
        attributes |= _ATTR_RDONLY
    _set_attributes(tree, attributes)
    return tree


def _open_device(device: int, path: str, *, write: bool) -> int:
    """Open a checked block device on a mount of its own, which then has no devices."""
    tree = _copied(device, path, 0)
    # Of a device this claims it: mounted, or another's, it is busy (open(2)).
    # guard: a device that is in use is no disk
    mode = (os.O_RDWR if write else os.O_RDONLY) | os.O_EXCL
    fd = os.open(f"/proc/self/fd/{tree}", mode | os.O_CLOEXEC)
    # guard: a device that is only read is not opened again to write
    _set_attributes(tree, _ATTR_NOSUID | _ATTR_NODEV)
    return fd


def _copied(folder: int, path: str, kind: int) -> int:
    """Return a detached copy of the mount of a checked file, in new namespaces."""
    uid, gid = os.getuid(), os.getgid()
    _check(_libc.unshare(_NEWUSER | _NEWNS), "cannot create a user namespace")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        Path("/proc/self", name).write_text(text, encoding="ascii")
    # A mount of another namespace cannot be cloned: it is opened again in this one.
    how = struct.pack("QQQ", os.O_PATH | kind | os.O_CLOEXEC, 0, _NO_LINKS)
    here = _call(_SYS_OPENAT2, -100, os.fsencode(path), how, len(how))
    # guard: the mounted directory is the checked one
    if not os.path.samestat(os.fstat(here), os.fstat(folder)):
        raise OSError(0, "the directory was replaced during the operation")
    try:
        # Not recursive, because a mount below it is not shared; the kernel refuses to show
        # the directory without that (mount_namespaces(7), locked mounts).
        return _call(_SYS_OPEN_TREE, here, b"", _EMPTY_PATH | 1 | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise OSError(
            errno.EINVAL,
            "another file system is mounted below it; unmount that, or share a directory "
            "that does not contain it",
        ) from error


def _set_attributes(tree: int, attributes: int) -> None:
    # The clone is a slave of the user's mount (mount_namespaces(7)), and would get what
    # is mounted below the directory later, writable.
    # guard: later mounts of the user do not appear in a shared folder
    mount_attr = struct.pack("QQQQ", attributes, 0, _PRIVATE, 0)
    _call(_SYS_MOUNT_SETATTR, tree, b"", _EMPTY_PATH, mount_attr, len(mount_attr))


def mount_number(tree: int) -> str:
    """Return the number of a mount, which stays its own when it is moved (proc(5))."""
    facts = Path(f"/proc/self/fdinfo/{tree}").read_text(encoding="ascii")
    return facts.partition("mnt_id:")[2].split(maxsplit=1)[0]


def enter(namespace: int) -> None:
    """Enter a mount namespace, with the rights of the user namespace that owns it."""
    owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
    _check(_libc.setns(owner, _NEWUSER), "its user namespace is not yours")
    _check(_libc.setns(namespace, _NEWNS), "cannot enter its mount namespace")


def attach(tree: int, base: str, name: str) -> None:
    """Create the directory ``name`` in ``base``, and attach a detached mount there."""
    place = _without_links(base, make=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=place)
    target = os.open(name, _DIRECTORY, dir_fd=place)
    _call(_SYS_MOVE_MOUNT, tree, b"", target, b"", _F_EMPTY | _T_EMPTY)


def _without_links(base: str, *, make: bool = False) -> int:
    """Open a directory of the sandbox through no link; ``make`` those that are missing."""
    place = os.open("/", _DIRECTORY)
    for part in base.strip("/").split("/"):
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=place)
        above, place = place, os.open(part, _DIRECTORY, dir_fd=place)
        os.close(above)
    return place


# guard: no link to where a folder is mounted
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def detach(base: str, name: str, *, lazily: bool) -> int:
    """Unmount a folder; return ``HELD`` where files are open, unless ``lazily``.

    ``ABSENT`` where nothing is mounted.  Raises OSError.
    """
    try:
        os.chdir(_without_links(base))
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT  # also of a link: the sandbox has put one in its place
    except OSError as error:
        if error.errno == errno.ELOOP:
            return ABSENT
        raise
    flags = _NOFOLLOW | (_DETACH if lazily else 0)
    if _libc.umount2(os.fsencode(name), flags) != 0:
        code = ctypes.get_errno()
        if code == errno.EBUSY:
            return HELD
        if code in {errno.EINVAL, errno.ENOENT}:
            return ABSENT
        raise OSError(code, os.strerror(code))
    with contextlib.suppress(OSError):
        Path(name).rmdir()
    return 0


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    _check(result)
    return result


def _check(result: int, what: str = "") -> None:
    if result < 0:
        code = ctypes.get_errno()
        text = os.strerror(code)
        raise OSError(code, f"{what} ({text})" if what else text)
