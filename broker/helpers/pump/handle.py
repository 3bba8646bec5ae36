"""The handle by which a broker, or an acceptor, holds its pump.

The host, the viewer, ``brokerctl proxy`` and acceptors hold one.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from broker.ipc.captured_stderr import FirstWords


@dataclass(eq=False)
class PumpHandle:
    """A pump as its broker holds it.

    ``control`` is the broker's end; closing it ends the pump.
    """

    control: socket.socket
    pid: int
    pidfd: int
    words: FirstWords | None = None
    """Its standard error, which the broker reads at its end."""
    end: int = -1
    """The pipe into which the fork server that reaps it writes how it ended; -1 where
    it is ours to reap."""

    def close(self) -> None:
        """Let go of it, which ends it."""
        self.control.close()
        if self.words is not None:
            self.words.close()


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Return a control socket's two ends, broker's and pump's, both CLOEXEC."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
