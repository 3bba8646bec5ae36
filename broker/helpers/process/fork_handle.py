"""A fork server that runs, as its clients hold it.

Apart from ``fork_client``: a broker starts its other processes before it loads trio.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Protocol


class ServerProcess(Protocol):
    """A fork server as who has started it holds it."""

    @property
    def pid(self) -> int:
        """Its process id, until it has ended."""
        ...

    def kill(self) -> None:
        """Kill the child; does nothing when it has ended."""
        ...

    async def wait(self) -> int | None:
        """Wait for its end; return its exit code, or minus the signal's number.

        None where that is not known.  Any number of tasks may wait.
        """
        ...


@dataclass(frozen=True)
class ForkServerHandle:
    """A client's way to a fork server that runs already, with others' children, too."""

    control: socket.socket
    process: ServerProcess
    """Of whose parent it is a child; another client has only its ``pid``."""
