"""Which Flatpak application a process is of: the instances that Flatpak keeps.

``$XDG_RUNTIME_DIR/.flatpak/ID/`` is written before the application runs:
``bwrapinfo.json`` has the pid namespace of the instance, ``info`` the name of the
application.  A directory outlives its instance until a later ``flatpak run``, and
the kernel gives inode numbers of namespaces again; so the first process must live,
and be the first of that namespace.  No process is looked up by its number alone.

The host asks for a lease's connection, brokerctl for an application whose X11 display
it serves, and for the instances whose mounts it separates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec

from broker.core.errors import RefusedError
from broker.core.process_status import status_fields
from broker.net.peers import credentials

_FILE_BYTES = 65536
_INSTANCES = 1024


class _BwrapInfo(msgspec.Struct):
    """bubblewrap's --info-fd; other fields are passed over."""

    leader: int = msgspec.field(name="child-pid")
    pid_namespace: int = msgspec.field(name="pid-namespace")


def app_of(runtime: Path, namespaces: tuple[int, ...]) -> str | None:
    """Return the application that a process is of; None if none vouches for it.

    ``namespaces`` are the pid namespaces of the process (a pidfd's), innermost first;
    ``runtime`` is XDG_RUNTIME_DIR.
    """
    ours = credentials.pid_namespaces_of_self()
    inside = {number for number in namespaces if number not in ours}
    for entry in _instances(runtime / ".flatpak"):
        name = _vouched(entry, inside)
        if name is not None:
            return name
    return None


def leaders_of(runtime: Path, app: str) -> Iterator[tuple[int, int]]:
    """Yield the first process of each running instance of an application, with its pidfd.

    That is open until the next one.  ``runtime`` is XDG_RUNTIME_DIR.
    """
    for entry in _instances(runtime / ".flatpak"):
        with suppress(OSError, OverflowError, ValueError, RecursionError):
            info = _bwrap_info(entry)
            if _name(_read(entry / "info").decode()) != app:
                continue
            with os.fdopen(os.pidfd_open(info.leader)) as pidfd:
                if _leads(info, pidfd.fileno()):
                    yield info.leader, pidfd.fileno()


def _instances(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in islice(entries, _INSTANCES)]
    except FileNotFoundError:
        return []


def _vouched(instance: Path, inside: set[int]) -> str | None:
    """Return the application of an instance that contains a process.

    None for others.
    """
    try:
        info = _bwrap_info(instance)
        # guard: an instance that has ended vouches for no process
        if info.pid_namespace not in inside or not _lives_and_leads(info):
            return None
        return _name(_read(instance / "info").decode())
    except (OSError, ValueError, RecursionError):
        return None  # it begins or ends at this moment, or is not an instance


def _bwrap_info(instance: Path) -> _BwrapInfo:
    return msgspec.json.decode(_read(instance / "bwrapinfo.json"), type=_BwrapInfo)


def _lives_and_leads(info: _BwrapInfo) -> bool:
    """Return whether an instance's first process lives and is its namespace's first."""
    try:
        with os.fdopen(os.pidfd_open(info.leader)) as pidfd:
            return _leads(info, pidfd.fileno())
    except (OSError, OverflowError):
        return False


def _leads(info: _BwrapInfo, pidfd: int) -> bool:
    """Return whether the process of a pidfd is its namespace's first, and lives."""
    try:
        namespaces = credentials.pid_namespaces(pidfd)
        number = _number_inside(info.leader)
        # Asked again: so /proc was read of this process.
        same = credentials.pid_namespaces(pidfd) == namespaces
    except (OSError, RefusedError):
        return False
    return same and number == 1 and namespaces[:1] == (info.pid_namespace,)


def _number_inside(pid: int) -> int:
    """A process's number in its pid namespace (proc_pid_status(5), NSpid)."""
    numbers = status_fields(pid).get("NSpid", [])
    return int(numbers[-1]) if numbers else 0


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        return file.read(_FILE_BYTES)


def _name(info: str) -> str | None:
    """Return the ``name=`` of [Application].

    None for an instance of a runtime alone.
    """
    group = ""
    # A value may have other line ends (str.splitlines), which Flatpak writes as they are.
    # guard: a value of an instance is not taken for its name
    for line in info.split("\n"):
        if line.startswith("["):
            group = line
        elif group == "[Application]" and line.startswith("name="):
            return line.removeprefix("name=").strip()
    return None
