"""Orders about the user's services: programs, secrets, ssh agents, ports.

The viewer makes them by a permit; a session child carries them out.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from broker.core.services import CALL, SECRET, SSH_AGENT, TCP
from broker.core.ssh_agent import (
    AgentAnswer,
    BindSession,
    ListKeys,
    SignContent,
    SignLogin,
)
from broker.ipc.guest.file_requests import ArgumentText, ServiceText
from broker.ipc.session.order import ENDS, OrderMessage
from broker.wire.row import Empty, NeededPermit, Row

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ConnectPort(OrderMessage, frozen=True):
    """Connect to a port of this machine's loopback.

    Descriptor of the answer: the socket.
    """

    port: Port


class ListenPort(OrderMessage, frozen=True):
    """Listen on the loopback for a call of ``Forward``, whose ``local`` is the port.

    It is closed when the viewer hangs up.
    """

    port: Port


class OpenedPort(OrderMessage, frozen=True):
    """A port that is listened on, as 127.64.0.1 and 80."""

    address: str
    port: Port


class AcceptConnection(OrderMessage, frozen=True):
    """Wait for the next connection to the port of ``ListenPort``.

    No permit: the call of the user that ``ListenPort`` needs has not ended.
    """


class AcceptedConnection(OrderMessage, frozen=True):
    """A connection to our port.

    Descriptor: the socket; none: another user of the machine has connected.
    """

    port: Port
    """At its far end."""


class AskSecret(OrderMessage, frozen=True):
    """Read one of the user's secrets.

    Descriptors of the answer: the socket that has it, and its other end.
    """

    name: ArgumentText


class StartService(OrderMessage, frozen=True):
    """Find a service in the user's ``services.d``, for a call by the warrant's sandbox.

    It is started by ``ServeNow`` on the same connection.
    """

    service: ServiceText
    argument: ArgumentText


class FoundService(OrderMessage, frozen=True):
    """A service that the user has defined."""

    concurrent: int | None = None
    """The number that may run at one time; None: there is no such service."""


class ServeNow(OrderMessage, frozen=True):
    """Start the service that was found.

    Descriptor of the answer: its end of the stream.

    No permit: that of ``StartService`` is held.
    """


class UseAgent(OrderMessage, frozen=True):
    """Serve a sandbox's connection to an ssh agent, by further calls."""


class AskAgent(OrderMessage, frozen=True):
    """Ask the user's own agent for its keys, or to check a host's.

    No permit: that of ``UseAgent`` is held, and nothing is signed.
    """

    ask: ListKeys | BindSession


class SignByAgent(OrderMessage, frozen=True):
    """Have the user's own agent sign what the permit names."""

    ask: SignLogin | SignContent


class AgentReply(OrderMessage, frozen=True):
    """The answer of the user's agent."""

    answer: AgentAnswer


class NameHost(OrderMessage, frozen=True):
    """Find the names of the host with a key.

    ``candidates`` are tried at names that are hashed.

    No permit: that of ``UseAgent`` is held.
    """

    key: bytes
    candidates: tuple[str, ...]


class KnownHost(OrderMessage, frozen=True):
    """What the user's ssh knows of the host with a key.

    ``names``: its names, those of the candidates first.  ``hashed``: the file and line of
    a name that no candidate is; empty: none.
    """

    names: tuple[str, ...] = ()
    hashed: str = ""


CONNECT_PORT = Row(
    "ConnectPort",
    ConnectPort,
    Empty,
    *ENDS,
    permit=NeededPermit(frozenset({TCP})),
    gives=1,
)
LISTEN_PORT = Row(
    "ListenPort", ListenPort, OpenedPort, *ENDS, calls=frozenset({"Forward"})
)
ACCEPT_CONNECTION = Row(
    "AcceptConnection", AcceptConnection, AcceptedConnection, *ENDS, gives=range(2)
)
ASK_SECRET = Row(
    "AskSecret",
    AskSecret,
    Empty,
    *ENDS,
    permit=NeededPermit(frozenset({SECRET})),
    gives=2,
)
START_SERVICE = Row(
    "StartService",
    StartService,
    FoundService,
    *ENDS,
    permit=NeededPermit(frozenset({CALL}), service_field="service"),
)
SERVE_NOW = Row("ServeNow", ServeNow, Empty, *ENDS, gives=1)
USE_AGENT = Row(
    "UseAgent",
    UseAgent,
    Empty,
    *ENDS,
    permit=NeededPermit(frozenset({SSH_AGENT}), for_desktop=False, precedes_uses=True),
)
ASK_AGENT = Row("AskAgent", AskAgent, AgentReply, *ENDS)
SIGN_BY_AGENT = Row(
    "SignByAgent",
    SignByAgent,
    AgentReply,
    *ENDS,
    permit=NeededPermit(frozenset({SSH_AGENT})),
)
NAME_HOST = Row("NameHost", NameHost, KnownHost, *ENDS)
