"""A container's bound files, where Podman finds the checked ones and no others.

Only brokerctl runs this, with the user's rights: it starts 'podman unshare', in which
the mounts are made.

See ``broker.helpers.mounts.binding``.  The mounts are made in the namespaces that all
commands of a user's Podman share; a container has copies of its own.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.helpers.mounts.binding import file_words
from broker.helpers.mounts.opened import open_without_links
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool
from broker.helpers.tools import profiles

_SECONDS = 60.0


@asynccontextmanager
async def bound_for_podman(
    folder: Path, without_links: Mapping[Path, Path], environ: Mapping[str, str]
) -> AsyncIterator[dict[Path, Path]]:
    """Bind mount checked files below a new directory; yield where each one is.

    ``without_links``: each path, and the same without its links; none of them is a
    path that a sandbox may have changed since.  Raises RefusedError where one was.
    """
    if not without_links:
        yield {}
        return
    with ExitStack() as opened:
        words = list[str]()
        for path, found in without_links.items():
            try:
                fd = open_without_links(str(found), kind=0)
            except OSError as error:
                raise _refused(printable(str(path), 200), error.strerror) from error
            opened.callback(
                os.close, fd
            )  # as long as it is open, no other has its number
            words += file_words(found, fd)
        base = tempfile.mkdtemp(prefix="bound-", dir=folder)
        lock = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            await _binding(environ, base, *words)
        except UpstreamError as error:
            await _undo(environ, base)
            reason = error.message.rpartition("failed with code 1: ")[2]
            raise _refused("a path of the record", reason) from error
        try:
            yield {path: Path(base, str(n)) for n, path in enumerate(without_links)}
        finally:
            await _undo(environ, base)


async def _undo(environ: Mapping[str, str], base: str) -> None:
    """Have the mounts below a directory unmounted, even when cancelled."""
    # If it fails, the next container's start does it.
    with trio.CancelScope(shield=True), suppress(UpstreamError):
        await _binding(environ, "--undo", base)


async def _binding(environ: Mapping[str, str], *words: str) -> None:
    """Run the binding program in the namespaces of the user's Podman."""
    ours = our_program(*profiles.BIND.start, *words)
    await run_tool(["podman", "unshare", *ours], env=environ, deadline=_SECONDS)


def _refused(what: str, reason: str | None) -> RefusedError:
    return RefusedError(
        f"cannot bind-mount {what}: {reason}",
        hint="check the path and the permissions of its directories, then run the command again",
    )
