"""The user's own ssh agent, used by permits, and the names of hosts.

A child serves one connection of a sandbox to an agent.  Where that is the user's, a
viewer that was taken over lists its keys, and has signed what was permitted: the bytes
are written here, of the fields that the permit has, and the host is the one whose key
the agent has checked.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from broker.core import ssh_agent as wire
from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
)
from broker.core.limits import ssh_agent as limits
from broker.core.ssh_agent import (
    AgentAnswer,
    AgentAsk,
    BindSession,
    KeyDone,
    KeyList,
    KeyRefused,
    ListKeys,
    SignContent,
    SignLogin,
    fingerprint,
    key_name,
    wrongly_signed,
)
from broker.ipc.session import service_orders as m
from broker.ipc.session.permit_warrant import PermitWarrant
from broker.session.connecting import connect_patiently
from broker.session.order_exchange import OrderExchange, one_of
from broker.session.ssh.known_hosts import known_host, names_of
from broker.session.warrant_check import VerifiedPermit
from broker.wire.row import serves
from policy.names import ADMIN_NAMES

_READ_BYTES = 1 << 14


@serves(m.USE_AGENT)
def use_agent(exchange: OrderExchange, _request: m.UseAgent) -> None:
    """Serve a connection to the user's ssh agent until the viewer closes it.

    Raises RefusedError, SetupError where the user has no agent, UpstreamError, PeerError.
    """
    held = VerifiedPermit(exchange.permit)
    with socket.socket(socket.AF_UNIX) as sock:
        agent = None
        if held.permit.target in ADMIN_NAMES:
            _connect(sock)
            agent = _Agent(sock)
        use = _Use(held, agent)
        exchange.answer()
        find = one_of(held.renew, use.ask, use.sign, use.name_host)
        serving = True
        while serving:
            try:
                serving = exchange.serve_next(find)
            except RefusedError as error:
                exchange.fail(error)


def _connect(sock: socket.socket) -> None:
    """Connect to the user's ssh agent.  Raises SetupError without one."""
    try:
        path = os.environ["SSH_AUTH_SOCK"]
        connect_patiently(sock, path)
        sock.settimeout(limits.SSH_AGENT_SECONDS)
    except (KeyError, OSError) as error:
        raise SetupError("the user's desktop has no ssh agent") from error


class _Agent:
    """The user's agent, where ``SSH_AUTH_SOCK`` leads to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._frames = sock, wire.frames()

    def ask(self, ask: AgentAsk) -> AgentAnswer:
        """Send a request to the user's ssh agent; return its answer.

        Raises UpstreamError, PeerError.
        """
        try:
            self._sock.sendall(wire.request_frame(ask))
            while not (found := self._frames.feed(self._some())):
                pass
        except OSError as error:
            raise UpstreamError("the user's ssh agent does not answer") from error
        if len(found) > 1:
            raise PeerError("the user's ssh agent answered twice")
        return wire.decode_answer(found[0], ask)

    def _some(self) -> bytes:
        data = self._sock.recv(_READ_BYTES)
        if not data:
            raise BrokenPipeError
        return data


@dataclass
class _Use:
    """What one connection knows."""

    held: VerifiedPermit
    """The connection's own permit."""
    agent: _Agent | None
    """The user's; None: the connection leads to a sandbox's."""
    hosts: dict[bytes, bytes] = field(default_factory=dict)
    """The key of the host by session, which the agent has checked."""
    names: dict[bytes, str] = field(default_factory=dict)
    """The agent's keys, as permits name them."""

    @serves(m.NAME_HOST)
    def name_host(self, exchange: OrderExchange, request: m.NameHost) -> None:
        """Answer the names of a host.  Raises RefusedError."""
        # guard: hosts are named while the permit for the agent is held
        self.held.refuse_late()
        exchange.answer(known_host(request.key, request.candidates, Path.home()))

    @serves(m.ASK_AGENT)
    def ask(self, exchange: OrderExchange, request: m.AskAgent) -> None:
        """Have the user's agent list its keys, or check a host's.  Raises VitrailError."""
        agent, ask = self._present_agent(), request.ask
        answer = (
            self._bind(agent, ask) if isinstance(ask, BindSession) else agent.ask(ask)
        )
        exchange.answer(m.AgentReply(answer))

    @serves(m.SIGN_BY_AGENT)
    def sign(self, exchange: OrderExchange, request: m.SignByAgent) -> None:
        """Have the user's agent sign what was permitted.  Raises VitrailError."""
        agent = self._present_agent()
        self._check(agent, exchange.permit, request.ask)
        exchange.answer(m.AgentReply(agent.ask(request.ask)))

    def _present_agent(self) -> _Agent:
        """Return the user's agent while the permit is held.  Raises VitrailError."""
        # guard: the user's keys are listed while their permit is held
        self.held.refuse_late()
        if self.agent is None:
            raise InternalError("the order belongs to another one")
        return self.agent

    def _bind(self, agent: _Agent, ask: BindSession) -> AgentAnswer:
        """Have the agent check that a host has signed the session's id.

        Remember the host.
        """
        # guard: a session is of a host if the user's agent tells signatures apart
        if not isinstance(agent.ask(wrongly_signed(ask)), KeyRefused):
            return KeyRefused()
        answer = agent.ask(ask)
        # guard: a session is of the host whose key the user's agent has checked
        if isinstance(answer, KeyDone) and not ask.forwarding:
            self.hosts[ask.session] = ask.host_key
        return answer

    def _name(self, agent: _Agent, key: bytes) -> str:
        """Return how a permit names a key, with the agent's comment; empty: unknown."""
        if key not in self.names:
            answer = agent.ask(ListKeys())
            keys = answer.keys if isinstance(answer, KeyList) else ()
            self.names = {one.key: key_name(one) for one in keys}
        return self.names.get(key, "")

    def _check(
        self, agent: _Agent, permit: PermitWarrant, ask: SignLogin | SignContent
    ) -> None:
        """Raise RefusedError unless this very use was permitted."""
        # guard: a permit of another sandbox uses no key
        if permit.sandbox != self.held.permit.sandbox:
            raise RefusedError(f"the permit is for another sandbox: '{permit.sandbox}'")
        if isinstance(ask, SignLogin):
            argument = f"+login.{ask.user}"
            # guard: a permit for a login is for its host
            if not self._is_at(permit.host, permit.about, ask):
                raise RefusedError(f"the permit is for logins at {permit.host} only")
        else:
            argument = f"+sign.{ask.namespace}"
        # A rule and the user may know the key by its comment.
        name = self._name(agent, ask.key)
        # guard: a permit for one use of a key is for no other
        if not name or (permit.argument, permit.key) != (argument, name):
            raise RefusedError(f"the permit is for {permit.argument}, not {argument}")

    def _is_at(self, permitted: str | None, key: str, ask: SignLogin) -> bool:
        """Return whether a login's session is with the host of its permit."""
        bound = self.hosts.get(ask.session)
        if ask.host_key and bound != ask.host_key:
            return False
        if bound is None or permitted is None:
            return bound is None and permitted is None and not key
        # guard: a login is at the host whose key the user has read
        if fingerprint(bound) != key:
            return False
        names = names_of(bound, [permitted], Path.home())
        return permitted in (names or [fingerprint(bound)])
