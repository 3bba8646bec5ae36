"""The agents that keep ssh keys: the user's own, and those of sandboxes.

The sandbox's worker decodes the answers of its agent, a session child those of the
user's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import trio

from broker.authority.permit import Permit
from broker.core.errors import SetupError, UpstreamError
from broker.core.limits import ssh_agent as limits
from broker.core.ssh_agent import AgentAnswer, AgentAsk, SignContent, SignLogin
from broker.ipc import transfer as messages
from broker.ipc.session.service_orders import (
    ASK_AGENT,
    NAME_HOST,
    SIGN_BY_AGENT,
    USE_AGENT,
    AskAgent,
    KnownHost,
    NameHost,
    SignByAgent,
    UseAgent,
)
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.orders.session_orders import Begun, UserSession
from broker.wire.row import Empty


class KeyAgent(Protocol):
    """An agent that keeps keys."""

    async def ask(self, ask: AgentAsk, warrant: bytes = b"") -> AgentAnswer:
        """Send a request to the agent; return its answer.

        ``warrant``: of the permit, where something is signed. Raises UpstreamError,
        PeerError.
        """
        ...


class NoAgentError(ShareableError):
    """The user has no agent."""


class SandboxAgent:
    """The agent of a sandbox, by a program that the broker has started there."""

    def __init__(self, exchange: GuestConnection) -> None:
        self._guest = exchange.guest
        self._exchange = exchange

    async def ask(self, ask: AgentAsk, warrant: bytes = b"") -> AgentAnswer:
        """Send a request to the sandbox's agent; return its answer.

        See ``KeyAgent``.
        """
        del warrant  # a sandbox's keys are its own
        await self._guest.order(messages.StreamTell(self._exchange.stream, ask))
        with trio.move_on_after(limits.SSH_AGENT_SECONDS) as patience:
            said = await self._exchange.said()
            if isinstance(said, AgentAnswer):
                return said
        late = f"did not answer within {limits.SSH_AGENT_SECONDS:g} s"
        raise UpstreamError(
            f"the ssh agent of '{self._guest.lease.sandbox}' "
            f"{late if patience.cancelled_caught else 'closed the connection'}"
        )


@asynccontextmanager
async def user_ssh(session: UserSession, permit: Permit) -> AsyncIterator[UserSsh]:
    """Have a session child use the permit's agent; yield the connection to it.

    Raises NoAgentError without an agent of the user's, where the permit leads there.
    """
    async with AsyncExitStack() as stack:
        carrying_out = session.carrying_out(
            USE_AGENT, UseAgent(), warrant=permit.warrant
        )
        try:
            begun = await stack.enter_async_context(carrying_out)
        except SetupError as error:
            raise NoAgentError(
                "this desktop has no ssh agent that the broker can connect to",
                hint="run 'brokerctl restart' in a shell where SSH_AUTH_SOCK names the agent's socket",
            ) from error
        async with begun.held(permit.renewed):
            yield UserSsh(begun)


class UserSsh:
    """The user's own agent, a ``KeyAgent``, and the names that the user has for hosts."""

    def __init__(self, begun: Begun[Empty]) -> None:
        self._begun = begun

    async def ask(self, ask: AgentAsk, warrant: bytes = b"") -> AgentAnswer:
        """See ``KeyAgent``."""
        if isinstance(ask, SignLogin | SignContent):
            order = SignByAgent(ask)
            signed = await self._begun.more(SIGN_BY_AGENT, order, warrant=warrant)
            return signed.value.answer
        return (await self._begun.more(ASK_AGENT, AskAgent(ask))).value.answer

    async def host(self, key: bytes, candidates: Iterable[str]) -> KnownHost:
        """Return what the user's ssh knows of the host with this key."""
        order = NameHost(key, tuple(candidates))
        return (await self._begun.more(NAME_HOST, order)).value
