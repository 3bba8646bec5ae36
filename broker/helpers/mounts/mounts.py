"""The host's side: mounting an opened directory in a mount namespace, and unmounting it.

The host mounts folders by this, which starts ``tool`` for each mount; brokerctl only
waits by it for a container's namespace.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.files.opened_folder import OpenedFolder
from broker.core.process_status import status_fields
from broker.helpers.mounts.namespaces import has_mount, mount_table
from broker.helpers.mounts.tool import ABSENT, BASE, HELD
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool
from broker.helpers.tools import profiles
from broker.wire.faults import HeldError

_SECONDS = 20.0
_LOOK_SECONDS = 0.02
_CAP_SYS_ADMIN = 21
"""Number of the capability (linux/capability.h)."""


class AbsentError(UpstreamError):
    """No folder is mounted there."""


class AttachedFolder(NamedTuple):
    """A mounted folder: its path inside, and the kernel's number of the mount."""

    path: str
    number: int


async def attach(
    namespace: int,
    folder: OpenedFolder,
    *,
    write: bool,
    base: str = BASE,
    name: str = "",
) -> AttachedFolder:
    """Mount a folder in a namespace.  Raises UpstreamError.

    ``name``: the directory below ``base``, if that is not the folder's name.  Starts
    the mounting tool (``tool``) and waits for it.
    """
    name = name or folder.name
    words = [str(namespace), base, name, str(folder.fd), str(folder.path)]
    mode = "rw" if write else "ro"
    number = await _run("attach", *words, mode, fds=(namespace, folder.fd))
    return AttachedFolder(f"{base}/{name}", int(number))


async def detach(
    namespace: int, name: str, *, lazily: bool = False, base: str = BASE
) -> None:
    """Unmount a folder in a namespace.

    ``lazily``: also where files of it are open, which stay so.  Raises HeldError,
    AbsentError, UpstreamError.  Starts the mounting tool and waits for it.
    """
    how = "lazily" if lazily else "now"
    await _run("detach", str(namespace), base, name, how, fds=(namespace,))


async def _run(*words: str, fds: tuple[int, ...]) -> bytes:
    """Run the mounting tool in a process; return its output.

    Raises UpstreamError, HeldError, AbsentError.
    """
    argv = our_program(*profiles.MOUNT.start, *words)
    try:
        return await run_tool(argv, deadline=_SECONDS, pass_fds=fds)
    except UpstreamError as error:
        if f"failed with code {HELD}:" in error.message:
            raise HeldError(
                "a program of the sandbox has files of the folder open"
            ) from error
        if f"failed with code {ABSENT}:" in error.message:
            raise AbsentError("no folder is mounted there") from error
        reason = error.message.rpartition("failed with code 1: ")[2]
        raise UpstreamError(f"cannot mount or unmount the folder: {reason}") from error


async def wait_set_up(pid: int, path: str) -> None:
    """Wait until a container has its mount at ``path``: its root is its then.

    Raises UpstreamError when that takes long.
    """
    with trio.move_on_after(_SECONDS):
        while True:
            if has_mount(pid, path):
                return
            # The kernel reports no mount of another process's as an event.
            await trio.sleep(_LOOK_SECONDS)
    raise UpstreamError(
        f"the sandbox (process {pid}) did not mount {path} within {_SECONDS:g} s"
    )


def refuse_moved(pid: int, number: int | None) -> None:
    """Raise HeldError where a mount is in the namespace of a process, at any path.

    A sandbox can rename the directories above a mount, and put others, with other
    mounts, in their place: then another mount than the folder's was unmounted.
    """
    # guard: the unmounted mount is the folder's
    if any(int(mount[0]) == number for mount in mount_table(pid)):
        raise HeldError("the sandbox has mounted the folder at another path")


async def may_make_mounts(pid: int, *, closed: bool) -> bool:
    """Return whether programs of a sandbox may make mount namespaces.

    A copy of the mount in one is reached by a descriptor that another program was sent,
    when no process is in that namespace any more, so no look at processes finds it.
    Our boxes may not, but those of records that open namespaces, and the kernel has a
    limit for each (``broker.helpers.process.namespace_limits``).  Podman's containers
    share one namespace, so they have none: ``closed`` if our hook closes the calls in
    their filter (seccomp(2)).  Podman's own filter permits them.
    Raises UpstreamError where that cannot be told.  Starts the mounting tool, which
    reads the limit in the sandbox's namespace.
    """
    try:
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # it has ended, and all of its namespace with it
    except OSError as error:
        raise UpstreamError(f"cannot read the sandbox's namespaces: {error}") from error
    try:
        limit = int(await _run("limit", str(namespace), fds=(namespace,)))
    finally:
        os.close(namespace)
    if limit <= limits.BOX_NAMESPACES:
        return limit > 0
    # guard: the filter of another program closes no namespaces
    if not closed:
        return True
    try:
        return status_fields(pid)["Seccomp"] == ["0"]
    except OSError:
        return False


def refuse_other_namespaces(pid: int) -> None:
    """Raise HeldError where a program of the sandbox has mounted something itself."""
    # guard: a copy of the mount is not overlooked
    if may_have_copy(pid):
        raise HeldError("a program of the sandbox has separate mounts")


def may_have_copy(pid: int) -> bool:
    """Return whether unmounting may leave a copy in the sandbox of ``pid``."""
    # guard: a sandbox that may mount may have a copy
    if _may_mount(pid):
        return True
    return other_namespaces(pid)


def _may_mount(pid: int) -> bool:
    """Return whether programs of a container can have CAP_SYS_ADMIN there.

    They can mount the folder at a second place then, which no other program can find
    out for certain.  Our launchers drop all capabilities; a container that the user
    starts may have them (podman-run(1), --privileged).
    """
    try:
        status = status_fields(pid)
    except OSError:
        return False  # it has ended, and all of its namespace with it
    bounding = int(status["CapBnd"][0], 16)
    return bool(bounding >> _CAP_SYS_ADMIN & 1)


def other_namespaces(pid: int) -> bool:
    """Return whether a process in the pid namespace of ``pid`` has other mounts.

    Such a process has a copy of every mount, which unmounting does not reach.
    """
    try:
        mounts = Path(f"/proc/{pid}/ns/mnt").stat()
        inside = Path(f"/proc/{pid}/ns/pid_for_children").stat()
    except OSError:
        return False  # it has ended, and all of its namespace with it
    for other in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            same = os.path.samestat((other / "ns/mnt").stat(), mounts)
            if not same and _inside(other, inside):
                return True
    return False


def _inside(process: Path, namespace: os.stat_result) -> bool:
    """Return whether a process is in a pid namespace, or in one below it."""
    for _ in range(64):
        if os.path.samestat((process / "ns/pid").stat(), namespace):
            return True
        stat = (process / "stat").read_bytes().rpartition(b") ")[2].split()
        parent = int(stat[1])
        if parent <= 1:
            return False
        process = Path(f"/proc/{parent}")
    return False
