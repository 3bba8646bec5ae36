"""Orders about our own programs and the broker's processes."""

from __future__ import annotations

from typing import TypeAlias

from broker.core.decoding import TypedMessage


class StartForkServer(TypedMessage, frozen=True, tag="start-fork-server"):
    """Become a fork server.  Descriptors: its clients' sockets."""

    program: str


ProgramOrder: TypeAlias = StartForkServer
