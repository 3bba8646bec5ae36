"""``audio = "raw"``: a sandbox's bytes, unread, to the sound server.

The socat script did the same; this is for its former users.  The server
takes orders from the sandbox as from the user's own programs: it can record
the microphone and everything that is played, and load modules.  So it takes a
line in the record, and ``brokerctl status`` warns for as long as it holds.
"""

from __future__ import annotations

import socket

from broker.authority.permit import Permit
from broker.core.lease import Opening
from broker.host_and_viewer.stream_events import StreamEvents, relay_stream
from broker.net.connection_quota import SoundPlaces
from broker.viewer.sandboxes.dependencies import GuestTools
from broker.viewer.sound.sound_connection import sound_connection
from broker.viewer.stream_reply import OpeningReply
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
    tools: GuestTools,
    *,
    permit: Permit,
    quota: SoundPlaces,
    status: OpeningReply,
) -> None:
    """Relay one connection to the sound server, unread; return at its end.

    Until it is accepted the connection is the caller's, who has a refusal to answer on it.
    Raises as ``sound_connection``.
    """
    async with (
        sound_connection(tools.session, permit, quota) as server,
        StreamEvents(tools.log).carry(opening, "auto") as outcome,
    ):
        outcome.counts = 0, 0
        await status.say()
        status.started()
        fds = (conn.detach(), server.detach())
        await relay_stream(tools.pump, opening, fds, outcome)
