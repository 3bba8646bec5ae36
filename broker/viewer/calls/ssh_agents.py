"""The agents that keep ssh keys: the user's own, and those of sandboxes.

An answer of a sandbox's agent was decoded in its worker.  The user's own agent is
the user's process, and its answer is read here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from broker.core import ssh_agent as wire
from broker.core.errors import PeerError, UpstreamError
from broker.core.limits import ssh_agent as limits
from broker.core.ssh_agent import AgentAnswer, AgentAsk
from broker.ipc import transfer as messages
from broker.viewer.opening.exchanges import OpenExchange
from broker.viewer.opening.failures import ToldError

_READ_BYTES = 1 << 14


class KeyAgent(Protocol):
    """An agent that keeps keys."""

    async def ask(self, ask: AgentAsk) -> AgentAnswer:
        """Return its answer.  Raises UpstreamError, PeerError."""
        ...


class SandboxAgent:
    """The agent of a sandbox, behind a program that the broker has started there."""

    def __init__(self, exchange: OpenExchange) -> None:
        self._guest = exchange.guest
        self._exchange = exchange

    async def ask(self, ask: AgentAsk) -> AgentAnswer:
        """See ``KeyAgent``."""
        await self._guest.order(messages.StreamTell(self._exchange.stream, ask))
        with trio.move_on_after(limits.SSH_AGENT_SECONDS):
            said = await self._exchange.said()
            if isinstance(said, AgentAnswer):
                return said
        raise UpstreamError(
            f"the ssh agent of '{self._guest.lease.sandbox}' closed, or did not answer in "
            f"{limits.SSH_AGENT_SECONDS:g} s"
        )


@asynccontextmanager
async def user_agent() -> AsyncIterator[UserAgent]:
    """Connect to the user's own agent.  Raises ToldError without one."""
    path = os.environ.get("SSH_AUTH_SOCK", "")
    try:
        if not path:
            raise FileNotFoundError
        stream = await trio.open_unix_socket(path)
    except OSError as error:
        raise ToldError(
            "the user's own desktop has no ssh agent",
            hint="SSH_AUTH_SOCK is the broker's: 'systemctl --user import-environment "
            "SSH_AUTH_SOCK' before the broker starts",
        ) from error
    try:
        yield UserAgent(stream)
    finally:
        await trio.aclose_forcefully(stream)


class UserAgent:
    """The user's own agent, where ``SSH_AUTH_SOCK`` leads to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._frames = wire.frames()
        self._stream = stream

    async def ask(self, ask: AgentAsk) -> AgentAnswer:
        """See ``KeyAgent``."""
        try:
            with trio.fail_after(limits.SSH_AGENT_SECONDS):
                await self._stream.send_all(wire.request_frame(ask))
                while not (found := self._frames.feed(await self._some())):
                    pass
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            raise UpstreamError("the user's ssh agent does not answer") from error
        if len(found) > 1:
            raise PeerError("the user's ssh agent answers twice")
        return wire.decode_answer(found[0], ask)

    async def _some(self) -> bytes:
        data = await self._stream.receive_some(_READ_BYTES)
        if not data:
            raise BrokenPipeError
        return bytes(data)
