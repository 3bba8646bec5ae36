"""Detection of changed files: the kernel reports *that*, a scan finds out *what*.

inotify(7) wakes us at once where it can.  Changes that it cannot see (the other end of
a symbolic link, a network file system, a directory that is made later) a look
every ``limits.RULES_LOOK_SECONDS`` finds.  Only the look counts: it compares
names, sizes, times, owners and modes, so an editor that renames a new file over
the old one, an editor that writes in place, and a ``chmod`` are all the same to us.

The authority watches its rules and records by this, the viewer the user's settings.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from broker.core import limits

# From inotify(7), where these are IN_ATTRIB and so on.
_ATTRIB, _CLOSE_WRITE, _MOVED, _CREATE, _DELETE = 0x4, 0x8, 0xC0, 0x100, 0x200
_SELF = 0x400 | 0x800
_ONLYDIR = 0x01000000
_MASK = _ATTRIB | _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _SELF | _ONLYDIR
_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK
_DEPTH = 8
_PAUSE = 0.05
_READ_BYTES = 65536

Seen = frozenset[tuple[str, tuple[int, ...]]]
"""The result of one scan: each path with its facts; equal when nothing changed."""


def look(roots: Iterable[Path], files: Iterable[str] = ()) -> Seen:
    """Scan the present files, below the roots and these others.

    At most ``limits.RULES_LOOKED_AT`` entries.  A root that cannot be read differs from
    a root that does not exist.
    """
    tops = [os.fspath(root) for root in roots]
    found = {top: _facts(top) for top in tops}
    for path, _is_dir in _walk(tops):
        found[path] = _facts(path)
        if len(found) >= limits.RULES_LOOKED_AT:
            break
    for file in files:
        if len(found) >= 2 * limits.RULES_LOOKED_AT:
            break
        found.setdefault(file, _facts(file))
    return frozenset(found.items())


def _facts(path: str) -> tuple[int, ...]:
    """Return what identifies a file's state: device, inode, owner, size, times."""
    try:
        info = Path(path).stat()
    except (OSError, ValueError):
        return ()
    return (
        *(info.st_dev, info.st_ino, info.st_mode, info.st_uid),
        *(info.st_size, info.st_mtime_ns, info.st_ctime_ns),
    )


def _walk(roots: Iterable[str | Path]) -> Iterator[tuple[str, bool]]:
    """Yield all paths below the roots, and whether each is a directory."""
    waiting = [(os.fspath(root), 0) for root in roots]
    while waiting:
        path, depth = waiting.pop()
        try:
            with os.scandir(path) as found:
                entries = list(found)
        except OSError:
            continue
        yield path, True
        for entry in entries:
            if depth < _DEPTH and _is_directory(entry, follow=depth == 0):
                waiting.append((entry.path, depth + 1))
            else:
                yield entry.path, False


def _is_directory(entry: os.DirEntry[str], *, follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False  # a link to itself, or to where we may not look


class Watch:
    """Waits for changes below some roots; made by ``open_watch``."""

    def __init__(
        self, fd: int, roots: Iterable[Path], files: Callable[[], Iterable[str]]
    ) -> None:
        self._fd = fd
        self._roots = tuple(roots)
        self._files = files
        self._libc = ctypes.CDLL(None, use_errno=True)

    def look(self) -> Seen:
        """The present files."""
        return look(self._roots, self._files())

    async def wait_changed(self, since: Seen) -> Seen:
        """Wait until files differ from ``since`` and no longer change.

        Return the scan.
        """
        hinted = False
        while (now := self.look()) == since:
            if hinted:
                # Others write beside our files; each of their words costs a look.
                await trio.sleep(_PAUSE)
            await self._wait_hint()
            hinted = True
        with trio.move_on_after(limits.RULES_SETTLE_MOST_SECONDS):
            while True:
                await trio.sleep(limits.RULES_SETTLE_SECONDS)
                then, now = now, self.look()
                if then == now:
                    break
        return now

    async def _wait_hint(self) -> None:
        """Wait until inotify reports a change, or RULES_LOOK_SECONDS have passed."""
        if self._fd < 0:  # no inotify instance was to be had
            await trio.sleep(limits.RULES_LOOK_SECONDS)
            return
        self._arm()
        with trio.move_on_after(limits.RULES_LOOK_SECONDS):
            await trio.lowlevel.wait_readable(self._fd)
            try:
                os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return

    def _arm(self) -> None:
        """Watch each directory, and the nearest existing one above a missing root.

        To add a watched directory again changes nothing.  A directory that cannot be
        watched is scanned all the same.
        """
        places = {path for path, is_dir in _walk(self._roots) if is_dir}
        for root in self._roots:
            above = root
            while above != above.parent and not above.is_dir():
                above = above.parent
            places.add(os.fspath(above))
        for place in places:
            self._libc.inotify_add_watch(self._fd, os.fsencode(place), _MASK)


@asynccontextmanager
async def open_watch(
    roots: Iterable[Path], files: Callable[[], Iterable[str]] = tuple
) -> AsyncIterator[Watch]:
    """Watch the files below the roots, and ``files``, which may lie elsewhere."""
    fd = ctypes.CDLL(None, use_errno=True).inotify_init1(_CLOEXEC_NONBLOCK)
    try:
        yield Watch(fd, roots, files)
    finally:
        if fd >= 0:
            trio.lowlevel.notify_closing(fd)
            os.close(fd)
