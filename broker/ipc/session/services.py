"""Orders about services of the user's: programs, secrets, ssh agents, ports."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import TypedMessage

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ConnectPort(TypedMessage, frozen=True, tag="connect-port"):
    """Connect to a port of this machine's loopback.  Answer: the socket."""

    warrant: bytes
    port: Port


class ListenPort(TypedMessage, frozen=True, tag="listen-port"):
    """Listen on the loopback for a call of ``Forward``, whose ``local`` is the port.

    Answer: the socket, and the kernel's table of connections, ``/proc/net/tcp``.
    """

    warrant: bytes
    port: Port


ServiceOrder: TypeAlias = ConnectPort | ListenPort
