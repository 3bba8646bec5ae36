"""Locks, free space and leftovers of image builds.

A build that is killed leaves its unfinished directory beside the images and
mmdebstrap's scratch directory; a note says where the latter is.  The next
build of the same name, which holds the lock, removes both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import trio

from broker.cli.images import installed
from broker.core import limits
from broker.core.distribution import install_command, read_system
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.core.paths import Paths
from broker.helpers.process.spawn import run_tool
from broker.host.images.store import DEFAULT_SUITE

Progress = Callable[[str], None]
"""Called with one line of text at each step; must return at once."""

_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
_SCRATCH = "vitrail-image-"
_END_SECONDS = 10.0


@contextlib.asynccontextmanager
async def only_build(path: Path, progress: Progress) -> AsyncIterator[None]:
    """Hold the lock of one image's builds; the kernel drops it when we die."""
    with path.open("a") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    progress("waiting for another build of this image")
                    told = True
                await trio.sleep(0.2)
        yield


BUILD_TOOLS: Mapping[str, str] = MappingProxyType(
    {
        "mmdebstrap": "mmdebstrap",
        "genext2fs": "genext2fs",
        "e2fsck": "e2fsprogs",
        "dpkg-deb": "dpkg",
    }
)
"""Programs that a build runs, and the Debian packages of them."""
CONTAINER = f"debian:{DEFAULT_SUITE}"
"""Container image to build in; Podman's table of short names has its registry."""


async def check_machine(container: str = "") -> str:
    """Return the container image to build in; "" if this machine has the programs.

    ``container`` is an image that the user names.  Raises SetupError, with what to do,
    unless images can be built here.
    """
    container = container or needed_container(*BUILD_TOOLS)
    if os.geteuid() != 0:
        await _check_namespaces()
    return container


def needed_container(*tools: str) -> str:
    """Return the container image that has the programs which are not installed here.

    "" if all are installed.  Raises SetupError, with what to do, without Podman.
    """
    missing = [BUILD_TOOLS[tool] for tool in tools if not which(tool)]
    if missing and not which("podman"):
        system = read_system()
        packaged = all(system.package_name(package) != "-" for package in missing)
        raise SetupError(
            f"cannot build an image: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed, nor is podman, "
            "which would build in a container",
            hint=system.command(tuple(missing if packaged else ("podman",))),
        )
    return CONTAINER if missing else ""


async def _check_namespaces() -> None:
    """Raise SetupError unless user namespaces with subordinate ids can be made.

    Runs unshare(1), to try it.
    """
    if not which("newuidmap"):
        raise SetupError(
            "cannot build an image without root: newuidmap is not installed",
            hint=install_command("uidmap"),
        )
    try:
        await run_tool(["unshare", "--user", "--map-root-user", "true"])
    except UpstreamError as error:
        raise SetupError(
            "cannot build an image without root: user namespaces do not work: "
            f"{error.message}",
            hint="run 'brokerctl doctor' for the settings of the kernel",
        ) from error
    try:
        await run_tool(["unshare", "--user", "--map-auto", "--map-root-user", "true"])
    except UpstreamError as error:
        raise SetupError(
            "cannot build an image without root: subordinate user and group IDs "
            f"cannot be mapped: {error.message}",
            hint="if /etc/subuid has no line for this user: sudo usermod "
            "--add-subuids 1000000-1065535 --add-subgids 1000000-1065535 $USER "
            "(choose a range that no other user has)",
        ) from error


def which(tool: str) -> str | None:
    """Return a program's path; an ordinary user's PATH lacks /usr/sbin."""
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def need_space(directory: Path, what: str) -> None:
    """Raise SetupError unless a build has a chance to fit into ``directory``."""
    free = shutil.disk_usage(directory).free
    if free < limits.IMAGE_FREE_BYTES:
        raise SetupError(
            f"not enough space for {what} in {directory}: {free >> 20} MiB are "
            f"free, {limits.IMAGE_FREE_BYTES >> 20} MiB are needed",
            hint="free some space, or set another directory with "
            + ("TMPDIR" if what.startswith("temp") else "XDG_CACHE_HOME"),
        )


@contextlib.contextmanager
def disk_full_explained(directory: Path) -> Iterator[None]:
    """Raise SetupError with the free and the needed space if the disk is full.

    Raises SetupError.
    """
    try:
        yield
    except (OSError, VitrailError) as error:
        full = isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
        )
        if not full and not says_no_space(str(error)):
            raise
        free = ", ".join(
            f"{shutil.disk_usage(place).free >> 20} MiB are free in {place}"
            for place in (directory, scratch_base())
        )
        raise SetupError(
            "the disk became full while the image was built: at least "
            f"{limits.IMAGE_FREE_BYTES >> 20} MiB are needed, but {free}",
            hint="free some space, or set other directories with XDG_CACHE_HOME and "
            "TMPDIR",
        ) from error


def says_no_space(text: str) -> bool:
    """Return whether a tool's message is that the disk or a quota is used up."""
    return _NO_SPACE.search(text) is not None


def scratch_base() -> Path:
    """Return where temporary files go."""
    # Not /tmp: that is memory on many machines.
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 (only for mkdtemp)


def _scratch_note(paths: Paths, name: str) -> Path:
    return paths.images / f".{name}.scratch"


def make_scratch(paths: Paths, name: str) -> Path:
    """Create mmdebstrap's scratch directory, and note where it is."""
    base = scratch_base()
    need_space(base, "temporary files")
    # mmdebstrap's namespace has other users, who must be able to enter.
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=base))
    _scratch_note(paths, name).write_text(str(scratch))
    scratch.chmod(0o711)
    return scratch


async def remove_leftovers(paths: Paths, name: str) -> None:
    """Remove what a killed build of this name left; the lock is held.

    Ends processes that use its scratch directory, and removes that by rm in a user
    namespace.
    """
    for directory in installed.unused_versions(paths, name):
        shutil.rmtree(directory)
    scratch = noted_scratch(paths, name)
    if scratch is not None:
        await _end_users(scratch)
        # Its files belong to users of the namespace.  As root, mmdebstrap may
        # have mounted things there: never cross into them.
        words = ["rm", "-rf", "--one-file-system", "--", str(scratch)]
        if os.geteuid() != 0:
            words = ["unshare", "--user", "--map-auto", "--map-root-user", *words]
        await run_tool(words)
    _scratch_note(paths, name).unlink(missing_ok=True)


def noted_scratch(paths: Paths, name: str) -> Path | None:
    """Return the scratch directory that a build of this name noted, if any."""
    note = _scratch_note(paths, name)
    if not note.exists():
        return None
    scratch = Path(note.read_text())
    ours = scratch.name.startswith(_SCRATCH) and scratch.is_dir()
    return scratch if ours and scratch.stat().st_uid == os.geteuid() else None


async def _end_users(scratch: Path) -> None:
    """Kill the processes that still work in a scratch directory.

    mmdebstrap's children outlive it when it is killed.  They are in a
    separate namespace but ours to kill, as its creator.
    """
    with trio.move_on_after(_END_SECONDS):
        while (found := users(os.fsencode(scratch))) is None or found:
            for pid in found or ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await trio.sleep(0.05)


def users(scratch: bytes, proc: Path = Path("/proc")) -> list[int] | None:
    """Return the processes of each session that works in this directory.

    A session is known by a process that has the directory's name, which is
    random, in its arguments; what such a process starts may not have it.  None
    for "look again": it may have no arguments just now, in the middle
    of its execve(2).
    """
    sessions: dict[int, list[int]] = {}
    ours: set[int] = set()
    unsure = False
    for path in proc.glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
            state, _, _, session, *_ = (
                (path / "stat").read_bytes().rpartition(b") ")[2].split()
            )
        except OSError:
            continue  # it ended meanwhile
        if state not in b"ZX" and session != b"0":  # nor one of the kernel's own
            sessions.setdefault(int(session), []).append(int(path.name))
            unsure = unsure or not words
            if scratch in words:
                ours.add(int(session))
    ours.discard(os.getsid(0))
    found = [pid for session in ours for pid in sessions[session]]
    return found or (None if unsure else [])


def drop_scratch(paths: Paths, name: str) -> None:
    """Remove the scratch directory, which mmdebstrap has emptied."""
    scratch = noted_scratch(paths, name)
    if scratch is not None:
        scratch.rmdir()
    _scratch_note(paths, name).unlink(missing_ok=True)
