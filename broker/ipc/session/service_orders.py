"""Orders about the user's services: programs, secrets, ssh agents, ports.

The viewer makes them by a permit; a session child carries them out.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core.decoding import TypedMessage
from broker.core.ssh_agent import AgentAsk
from broker.ipc.guest.file_requests import ArgumentText, ServiceText

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ConnectPort(TypedMessage, frozen=True, tag="connect-port"):
    """Connect to a port of this machine's loopback.  Answer: the socket."""

    warrant: bytes
    port: Port


class ListenPort(TypedMessage, frozen=True, tag="listen-port"):
    """Listen on the loopback for a call of ``Forward``, whose ``local`` is the port.

    Answer: the address and the port, as in 127.64.0.1:80.  It is closed when the viewer
    hangs up.
    """

    warrant: bytes
    port: Port


class AcceptConnection(TypedMessage, frozen=True, tag="accept-connection"):
    """Wait for the next connection to the port of ``ListenPort``.

    Answer: the port at its far end, in digits, and the socket; no socket: another user
    of the machine has connected.
    """


class AskSecret(TypedMessage, frozen=True, tag="ask-secret"):
    """Read one of the user's secrets.  Answer: the socket that has it, and its other end."""

    warrant: bytes
    name: ArgumentText


class StartService(TypedMessage, frozen=True, tag="start-service"):
    """Find a service in the user's ``services.d``, for a call by the warrant's sandbox.

    Answer: how many may run at one time, in digits; empty: there is none.  It is started
    by ``ServeNow`` on the same channel.
    """

    warrant: bytes
    service: ServiceText
    argument: ArgumentText


class ServeNow(TypedMessage, frozen=True, tag="serve-now"):
    """Start the service that was found.  Answer: its end of the stream."""


class UseAgent(TypedMessage, frozen=True, tag="use-agent"):
    """Serve a sandbox's connection to an ssh agent, by ``AskAgent`` and ``NameHost``."""

    warrant: bytes


class AskAgent(TypedMessage, frozen=True, tag="ask-agent"):
    """Ask the user's own agent.  Answer: its answer."""

    ask: AgentAsk
    warrant: bytes = b""
    """The use's, where something is signed."""


class NameHost(TypedMessage, frozen=True, tag="name-host"):
    """Find the names of the host with a key.  Answer: ``KnownHost``.

    ``candidates`` are tried at names that are hashed.
    """

    key: bytes
    candidates: tuple[str, ...]


class KnownHost(TypedMessage, frozen=True, tag="known-host"):
    """What the user's ssh knows of the host with a key.

    ``names``: its names, those of the candidates first.  ``hashed``: the file and line of
    a name that no candidate is; empty: none.
    """

    names: tuple[str, ...] = ()
    hashed: str = ""


ServiceOrder: TypeAlias = (
    ConnectPort
    | ListenPort
    | AcceptConnection
    | AskSecret
    | StartService
    | ServeNow
    | UseAgent
    | AskAgent
    | NameHost
)
