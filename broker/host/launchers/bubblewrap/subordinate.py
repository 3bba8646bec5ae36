"""A user namespace in which a program runs under a subordinate user id (subuid(5)).

Only brokerctl runs this, with the user's rights: it forks a child that holds the
namespace, and starts newuidmap(1), which is setuid root.

The kernel counts entries of epoll sets, pages of pipes and descriptors in flight for a
user id, whatever the namespace (user_struct in the kernel).  A program under an id that
nothing else of the user's has is counted apart.  newuidmap(1) alone may map such an id
for an ordinary user.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import stat
from contextlib import ExitStack
from pathlib import Path

from broker.helpers.process.popen import DEVNULL, Process, start_process

_NEWUSER = 0x10000000
_SUBUID, _SUBGID = Path("/etc/subuid"), Path("/etc/subgid")
_PROGRAMS = ("newuidmap", "newgidmap", "setpriv", "bwrap")
_libc = ctypes.CDLL(None, use_errno=True)


def subordinate_namespace(stack: ExitStack, inside: tuple[int, int]) -> int | None:
    """Return a descriptor of a new user namespace, which ``stack`` closes.

    In it 0 is this user and this group, and ``inside``, a user and a group, are a
    subordinate user and group; each namespace has others, by chance.  Its owner is this
    user, who so has all rights over its processes.  None if the user has no subordinate
    ids or this machine does not map them.  Forks a child that makes it and ends, and
    starts newuidmap(1) and newgidmap(1).
    """
    if not all(map(shutil.which, _PROGRAMS)) or _set_id("bwrap"):
        return None
    user, group = _one_of(_SUBUID), _one_of(_SUBGID)
    if user is None or group is None or 0 in inside:
        return None
    from_child, told = os.pipe()
    held, release = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(from_child)
        os.close(release)
        os._exit(_wait_inside(told, held))
    os.close(told)
    os.close(held)
    try:
        if os.read(from_child, 1) != b"y":
            return None
        both = (
            _mapping("newuidmap", child, os.getuid(), inside[0], user),
            _mapping("newgidmap", child, os.getgid(), inside[1], group),
        )
        if [one.wait() for one in both] != [0, 0]:
            return None
        namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(from_child)
        os.close(release)
        os.waitpid(child, 0)
    stack.callback(os.close, namespace)
    return namespace


def _set_id(program: str) -> bool:
    """Return whether the program is setuid root.

    Bubblewrap then joins no namespace.
    """
    path = shutil.which(program)
    return path is None or bool(Path(path).stat().st_mode & stat.S_ISUID)


def _one_of(file: Path) -> int | None:
    """Return one of the user's subordinate ids, of the upper half of the first range.

    The lowest ones are most of those that containers of this user use.
    """
    names = {str(os.getuid())}
    try:
        names.add(pwd.getpwuid(os.getuid()).pw_name)
        lines = file.read_text(errors="replace").splitlines()
    except (OSError, KeyError):
        return None
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in names:
            first, count = fields[1], fields[2]
            if first.isdecimal() and count.isdecimal() and int(count) > 0:
                by_chance = int.from_bytes(os.urandom(8), "big")
                return int(first) + int(count) // 2 + by_chance % -(-int(count) // 2)
    return None


def _wait_inside(told: int, held: int) -> int:
    """Create a user namespace and wait until its ids are mapped; in a forked child."""
    try:
        made = _libc.unshare(_NEWUSER) == 0
        os.write(told, b"y" if made else b"n")
        os.read(held, 1)
    except BaseException:  # noqa: BLE001 -- nothing may come back from a forked child
        return 1
    return 0


def _mapping(program: str, child: int, ours: int, within: int, outside: int) -> Process:
    """Start newuidmap(1) or newgidmap(1), which maps two ids in a child's namespace."""
    numbers = (child, 0, ours, 1, within, outside, 1)
    words = [program, *map(str, numbers)]
    return start_process(words, stdout=DEVNULL, stderr=DEVNULL)
