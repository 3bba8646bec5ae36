"""``audio = "raw"``: a sandbox's bytes, unread, to the sound server.

The socat script did the same; this is for its former users.  The server
takes orders from the sandbox as from the user's own programs: it can record
the microphone and everything that is played, and load modules.  So it takes a
line in the record, and ``brokerctl status`` warns for as long as it holds.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from broker.authority.audit import event_log
from broker.authority.permit import Permit
from broker.core.lease import Opening
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.host_and_viewer.stream_events import StreamEvents, relay_stream
from broker.ipc.host_viewer import TaskStatus
from broker.viewer.orders.session_orders import UserSession
from broker.viewer.sound.sound_connection import sound_connection
from policy.records.model import Record

WARNING = (
    'audio = "raw": its programs can record your microphone and every '
    "application, and load modules into the sound server"
)


def is_raw(record: Record | None) -> bool:
    """Return whether a record gives its sandbox the sound server's own socket."""
    return record is not None and record.viewer.audio.playback == "raw"


async def raw_stream(
    opening: Opening,
    conn: socket.socket,
    session: UserSession,
    *,
    permit: Permit,
    pump: PumpSupervisor,
    log: event_log.EventLog,
    answer: Callable[[], Awaitable[None]],
    task_status: TaskStatus,
) -> None:
    """Relay one connection to the sound server, unread; return at its end.

    ``answer`` is awaited once it is taken; until then the connection is the caller's, who
    has a refusal to answer on it.  Raises SetupError or UpstreamError without a sound
    server.
    """
    async with (
        sound_connection(session, permit) as server,
        StreamEvents(log).carry(opening, "auto") as outcome,
    ):
        outcome.counts = 0, 0
        await answer()
        task_status.started()
        await relay_stream(pump, opening, (conn.detach(), server.detach()), outcome)
