"""The authority's process, as the broker that started it opens and ends it.

``vitrail-host``, ``vitrail-viewer`` and both processes of ``vitrail-local`` run this to
reach it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import trio

from broker.core.errors import InternalError
from broker.core.limits import authority as authority_limits
from broker.core.stderr_log import log_stderr
from broker.helpers.process.spawn import send_signal, wait_ended
from broker.host_and_viewer.authority_handle import AuthorityHandle
from broker.host_and_viewer.log_client import LogClient
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.control.forward import serve_forwarded
from broker.ipc.control.method import AnyMethod, Exchange, Owner
from broker.ipc.control.varlink import Call, VarlinkReply
from broker.wire.frame_carrier import Frames
from broker.wire.row import ProcessKind

_Client = TypeVar("_Client", bound=LogClient)


@asynccontextmanager
async def authority_process(handle: AuthorityHandle) -> AsyncIterator[None]:
    """Run the block, in which the clients are, then wait for the authority's end."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await _wait_or_kill(handle.pidfd)
        os.close(handle.pidfd)
        os.waitpid(handle.pid, os.WNOHANG)  # noqa: ASYNC222 -- it does not block


@asynccontextmanager
async def open_authority(
    handle: AuthorityHandle, client_role: str, kind: type[_Client]
) -> AsyncIterator[_Client]:
    """Connect a client to a deciding authority for the block; stop the authority after it.

    Raises the authority's error when it cannot start.
    """
    link = Frames(
        handle.clients[client_role].requests,
        receive_bytes=authority_limits.AUTHORITY_ANSWER_BYTES,
        send_bytes=authority_limits.AUTHORITY_REQUEST_BYTES,
        waiting=authority_limits.AUTHORITY_WAITING_BYTES,
    )
    client = kind(link, lost=partial(_end, handle.pidfd))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            yield client
            with trio.move_on_after(authority_limits.AUTHORITY_END_SECONDS):
                await client.stop("asked to end")
            nursery.cancel_scope.cancel()
    finally:
        link.close()


async def serve_calls(
    handle: AuthorityHandle,
    client_role: str,
    role: str,
    parts: Iterable[object],
    table: Mapping[str, AnyMethod],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer the calls of 'brokerctl' that the authority forwards, until cancelled.

    ``table`` has the methods of the client's process; ``role`` is the broker's.
    """
    api = Dispatcher(role, parts, table, forwards={Owner.AUTHORITY: _not_here})
    calls = handle.clients[client_role].calls
    kind = ProcessKind(client_role)
    await serve_forwarded(calls, kind, api, task_status=task_status)


async def _not_here(call: Call, exchange: Exchange[Any]) -> VarlinkReply:
    """The authority answers its methods, and forwards none of them."""
    del exchange
    raise InternalError(f"{call.method} was forwarded")


async def _wait_or_kill(pidfd: int) -> None:
    """Wait until the authority has ended; kill it when that takes too long."""
    with trio.move_on_after(authority_limits.AUTHORITY_END_SECONDS) as scope:
        await wait_ended(pidfd)
    # guard: an authority that does not end is killed
    if scope.cancelled_caught:
        log_stderr("vitrail: the authority did not exit in time and was killed")
        send_signal(pidfd)
        await wait_ended(pidfd)


def _end(pidfd: int, reason: str) -> None:
    """End this process at once, as if it were killed: its machines run on.

    Without the authority nothing may begin or be recorded, and nothing can be told of
    a cut, so everything that it permitted ends with its process.
    """
    log_stderr(f"vitrail: {reason}: the broker exits; machines continue to run")
    # Also where it is stopped: it holds the log and the control socket.
    # guard: a silent authority keeps neither log nor control socket
    send_signal(pidfd)
    # guard: a broker without its authority ends
    os._exit(1)
