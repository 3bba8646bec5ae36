"""Host and viewer on one machine: the far end over a pair of sockets, by packets.

A caller that is cancelled has the far end give the call up, and returns when it has.

The far end may be compromised.  A message that no honest process sends raises PeerError
out of ``run``, and the broker ends (docs/threat-model.md).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import trio

from broker.core.errors import UpstreamError
from broker.core.limits import host_viewer as pair_limits
from broker.ipc.host_rows import PAIR_ROWS
from broker.net.link.wire_types import Role
from broker.net.link_service.far_end import FarEnd
from broker.wire.habits import Habits
from broker.wire.packets import Packets
from broker.wire.peer import Peer
from broker.wire.row import ProcessKind

PROCESSES = {Role.HOST: ProcessKind.HOST, Role.VIEWER: ProcessKind.VIEWER}
_HABITS = Habits(
    most_calls=pair_limits.PAIR_REQUESTS,
    message_bytes=pair_limits.PAIR_MESSAGE_BYTES,
    follows_cancelled=True,
)


def _lost_pair() -> UpstreamError:
    return UpstreamError("the broker's other process has ended")


class PairEnd(FarEnd):
    """One end.  Owns the socket."""

    def __init__(
        self,
        sock: socket.socket,
        role: Role,
        parts: Callable[[PairEnd], Sequence[object]],
    ) -> None:
        """Set up one end of the pair.

        ``parts`` returns the objects that serve the rows of this ``role``.
        """
        super().__init__(reconnects=False)
        self.peer = Peer(
            Packets(sock, pair_limits.PAIR_MESSAGE_BYTES),
            PROCESSES[role],
            PROCESSES[role.other],
            PAIR_ROWS,
            parts(self),
            habits=_HABITS,
            ledger=self.ledger,
            lost_error=_lost_pair,
        )

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until the far end has closed.

        Raises PeerError for a message that it may not send.
        """
        await self.peer.run(task_status=task_status)

    async def watch(self) -> None:
        """Return when the far end does not answer any more, or has ended."""
        # guard: a host that does not answer ends the broker
        await self.peer.watch(
            pair_limits.PAIR_BEAT_SECONDS, pair_limits.PAIR_SILENT_SECONDS
        )
