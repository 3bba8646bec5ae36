"""The authority's process, as the broker's other process opens and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from broker.authority.channel.authority_client import AuthorityClient
from broker.authority.channel.frame_link import FrameLink
from broker.authority.channel.record_files import RecordFiles
from broker.authority.options import Options
from broker.core.limits import authority as authority_limits
from broker.core.stderr_log import log_stderr
from broker.helpers.process.spawn import wait_ended


@asynccontextmanager
async def open_authority(
    sock: socket.socket, pid: int, pidfd: int, options: Options
) -> AsyncIterator[AuthorityClient]:
    """Wait until the authority decides, and have it end behind the block.

    Raises the authority's error when it cannot start.
    """
    link = FrameLink(
        sock,
        receive_limit=authority_limits.AUTHORITY_ANSWER_BYTES,
        waiting=authority_limits.AUTHORITY_WAITING_BYTES,
    )
    files = RecordFiles(options.paths, options.shipped)
    client = AuthorityClient(link, files, lost=partial(_end, pidfd))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            yield client
            with trio.move_on_after(authority_limits.AUTHORITY_END_SECONDS):
                await client.stop("asked to end")
            nursery.cancel_scope.cancel()
    finally:
        link.close()
        with trio.CancelScope(shield=True):
            await _wait_gone(pidfd)
        os.close(pidfd)
        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 -- it does not block


async def _wait_gone(pidfd: int) -> None:
    """Return when the authority has ended, by itself or killed."""
    with trio.move_on_after(authority_limits.AUTHORITY_END_SECONDS) as scope:
        await wait_ended(pidfd)
    # guard: an authority that does not end is killed
    if scope.cancelled_caught:
        log_stderr("vitrail: the authority did not end in time: it is killed")
        _kill(pidfd)
        await wait_ended(pidfd)


def _kill(pidfd: int) -> None:
    """Kill it, also where it is stopped: it holds the log and the control socket."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _end(pidfd: int, reason: str) -> None:
    """End this process at once, as if it were killed: its machines run on.

    Without the authority nothing may begin or be recorded, and nothing can be told of
    a cut, so everything that it permitted ends with its process.
    """
    log_stderr(f"vitrail: {reason}: the broker ends; machines run on")
    # guard: a silent authority keeps neither log nor control socket
    _kill(pidfd)
    # guard: a broker without its authority ends
    os._exit(1)
