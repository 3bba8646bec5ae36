"""The authority's process, as the broker's other process opens and ends it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from broker.authority.channel.authority_client import AuthorityClient
from broker.authority.channel.frame_link import FrameLink
from broker.authority.channel.record_files import RecordFiles
from broker.authority.options import Options
from broker.core.limits import authority as authority_limits
from broker.core.stderr_log import log_stderr
from broker.helpers.process.spawn import wait_ended

_END_SECONDS = 10.0
"""For the authority to close its log and end."""


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
    client = AuthorityClient(link, files, lost=_end)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            yield client
            await client.stop("asked to end")
    finally:
        link.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_END_SECONDS):
                await wait_ended(pidfd)
        os.close(pidfd)
        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 -- it does not block


def _end() -> None:
    """End this process at once, as if it were killed: its machines run on.

    Without the authority nothing may begin or be recorded, and nothing can be told of
    a cut, so everything that it permitted ends with its process.
    """
    log_stderr("vitrail: the authority has died: the broker ends; machines run on")
    # guard: a broker without its authority ends
    os._exit(1)
