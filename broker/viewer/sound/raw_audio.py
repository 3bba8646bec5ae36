"""``audio = "raw"``: a sandbox's bytes, unread, to the sound server.

This is what the socat script did, for those who come from there.  The server
takes orders from the sandbox as from the person's own programs: it can record
the microphone and everything that is played, and load modules.  So it takes a
line in the record, and ``brokerctl status`` warns for as long as it holds.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from broker.audit import schema
from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.lease import Opening
from broker.link.endpoints import UnixEndpoint, connect
from broker.relay.contract import StreamEnd
from broker.services import event_log
from broker.services.pump_supervisor import PumpSupervisor
from policy.records.model import Record

WARNING = (
    'audio = "raw": its programs can record your microphone and every '
    "application, and load modules into the sound server"
)


def is_raw(record: Record | None) -> bool:
    """Whether a record gives its sandbox the sound server's own socket."""
    return record is not None and record.viewer.audio.playback == "raw"


async def raw_stream(
    opening: Opening,
    conn: socket.socket,
    find_server: Callable[[], Path],
    *,
    pump: PumpSupervisor,
    log: event_log.Journal,
    answer: Callable[[None], Awaitable[None]],
    task_status: trio.TaskStatus[None],
) -> None:
    """Relay one connection to the sound server; returns at its end.

    ``answer`` is awaited once it is taken; until then the connection is the
    caller's, who has a refusal to answer on it.  Raises SetupError or UpstreamError
    when no sound server is to be had.
    """
    began = trio.current_time()
    server = await connect(
        UnixEndpoint(find_server()), deadline=limits.ADMIT_SECONDS, descriptors=True
    )
    with server:
        await log.require(
            schema.StreamOpened(**event_log.of_stream(opening), mode="auto")
        )
        await answer(None)
        task_status.started()
        fds = conn.detach(), server.detach()
    end: StreamEnd | None = None
    reason = "cut"
    try:
        end = await pump.relay(*fds, name=str(opening.stream))
        reason = end.describe()
    except UpstreamError as error:
        reason = str(error)
    finally:
        with trio.CancelScope(shield=True):
            await log.note(
                schema.StreamClosed(
                    **event_log.of_stream(opening),
                    outcome="closed",
                    reason=reason,
                    bytes_from_sandbox=0 if end is None else end.bytes_ab,
                    bytes_to_sandbox=0 if end is None else end.bytes_ba,
                    seconds=trio.current_time() - began,
                )
            )
