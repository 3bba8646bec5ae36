"""Orders about our own programs and the broker's processes.

They need no warrant: each says why it harms nobody.
"""

from __future__ import annotations

from typing import TypeAlias

from broker.core.decoding import TypedMessage
from broker.ipc.fork_server import ForkServerModule


class StartForkServer(TypedMessage, frozen=True, tag="start-fork-server"):
    """Become a fork server.

    Descriptors: its client's socket, its standard error.  It is one of those that the
    broker begins with, and its children are confined.
    """

    program: ForkServerModule
    allow_unjailed: bool = False
    """Of workers: also where no jail can be built."""


ProgramOrder: TypeAlias = StartForkServer
"""Orders of this family."""
