"""``vitrail.SshAgent``: keys of ssh that stay where they are, and are used by rule.

A program of a sandbox connects, and its worker decodes what it asks of an agent.  The
connection is decided as ``+list``; each login and each signature of a content is decided
by itself, with the key, the user and the host that are signed.  The bytes that a key
signs are written here, of the same fields that the rules and the user saw: a worker that
was taken over may ask, and not have anything else signed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from broker.authority.permit import Permit, Request
from broker.core.errors import PeerError, RefusedError
from broker.core.lease import Opening
from broker.core.limits import ssh_agent as limits
from broker.core.prompt_words import VIEWER
from broker.core.question import untrusted_word
from broker.core.services import SSH_AGENT
from broker.core.ssh_agent import (
    AgentAnswer,
    AgentAsk,
    AgentKey,
    BindSession,
    KeyDone,
    KeyList,
    KeyRefused,
    ListKeys,
    SignContent,
    SignLogin,
    fingerprint,
)
from broker.core.token_bucket import TokenBucket
from broker.ipc import transfer as messages
from broker.viewer.calls.known_hosts import names_of
from broker.viewer.calls.ssh_agents import KeyAgent, SandboxAgent, user_agent
from broker.viewer.opening.exchanges import OpenExchange
from broker.viewer.opening.failures import ToldError
from broker.viewer.opening.targets import Wait
from policy.rules.conditions import ANY_KEY
from policy.rules.world import ADMIN_NAMES

if TYPE_CHECKING:
    from broker.authority.channel.interface import Permits
    from broker.viewer.sandboxes.guest import Guest

LIST, LOGIN, CONTENT = "+list", "+login.", "+sign."
"""Arguments of requests: of a list, of a login before the user's name there, and of a
signature before the content's namespace."""
_BY_RULE = "@default"
_OTHER = "a-name-that-no-rule-has"

FarAgent = Callable[[Permit, "Guest", Wait], AbstractAsyncContextManager[SandboxAgent]]


class SshKeys:
    """All such connections of one viewer's sandboxes."""

    def __init__(self, decider: Permits, far_agent: FarAgent) -> None:
        """``far_agent`` leads to that of a permit's target, as a context."""
        self._decider = decider
        self._far_agent = far_agent
        self._paces: dict[str, TokenBucket] = {}

    async def serve(
        self,
        guest: Guest,
        opening: Opening,
        exchange: OpenExchange,
        target: str,
        wait: Wait,
    ) -> None:
        """Serve one connection to its end.  Raises VitrailError."""
        request = Request(
            lease=opening.lease,
            service=SSH_AGENT,
            argument=LIST,
            target={"": VIEWER, _BY_RULE: ""}.get(target, target),
            key=ANY_KEY,
            stream=opening.stream,
            peer=opening.peer,
            settled=target != _BY_RULE,
            ahead=True,
            tells=True,
            counts_bytes=False,
        )
        async with self._decider.permit(request) as permit:
            if permit.target == guest.lease.sandbox:
                raise ToldError("a sandbox asks its own agent itself")
            if permit.target in ADMIN_NAMES and permit.user is not None:
                raise ToldError(f"{permit.where}: at the desktop there is no user=")
            async with self._agent(permit, guest, wait) as agent:
                await guest.order(messages.SshServe(exchange.stream))
                talk = _Conversation(
                    self._decider, request, agent, guest, permit.target
                )
                while True:
                    asked = await exchange.agent_said()
                    # Requests of a sandbox to ssh agents are paced.
                    pace = self._pace(opening.lease.id)
                    await trio.sleep(pace.take(trio.current_time()))
                    if not isinstance(asked, AgentAsk):
                        raise PeerError("an ssh agent's answer to nobody")
                    answer = await talk.answer(asked)
                    await guest.order(messages.SshAnswer(exchange.stream, answer))

    def _agent(
        self, permit: Permit, guest: Guest, wait: Wait
    ) -> AbstractAsyncContextManager[KeyAgent]:
        if permit.target in ADMIN_NAMES:
            return user_agent()
        return self._far_agent(permit, guest, wait)

    def _pace(self, lease: str) -> TokenBucket:
        """Return that of a sandbox, for all of its connections."""
        now = trio.current_time()
        for known, pace in list(self._paces.items()):
            if pace.early(now, limits.SSH_REQUESTS_BURST) <= 0:
                del self._paces[known]  # it is as a fresh one
        fresh = TokenBucket(limits.SSH_REQUESTS_PER_SECOND, limits.SSH_REQUESTS_BURST)
        return self._paces.setdefault(lease, fresh)


@dataclass
class _Conversation:
    """What one connection knows."""

    decider: Permits
    listing: Request
    agent: KeyAgent
    guest: Guest
    target: str
    """Whose agent it is, by the rule that allowed the connection."""
    keys: dict[bytes, AgentKey] = field(default_factory=dict)
    """Those of the agent, offered or not."""
    hosts: dict[bytes, bytes] = field(default_factory=dict)
    """The key of the host by session, which the agent has checked."""
    way: list[bytes] = field(default_factory=list)
    """Keys of the hosts that carry the agent on."""

    async def answer(self, ask: AgentAsk) -> AgentAnswer:
        """Return the answer to a request; one that is denied has failed."""
        match ask:
            case ListKeys():
                await self._list()
                offered = [one for one in self.keys.values() if self._is_offered(one)]
                return KeyList(tuple(offered))
            case BindSession():
                return await self._bind(ask)
            case SignLogin() | SignContent():
                return await self._sign(ask)

    async def _list(self) -> None:
        answer = await self.agent.ask(ListKeys())
        if isinstance(answer, KeyList):
            self.keys = {one.key: one for one in answer.keys}

    async def _bind(self, ask: BindSession) -> AgentAnswer:
        """Have the agent check that the host has signed the session's id."""
        # guard: sessions of a connection to an ssh agent are few
        if len(self.hosts) + len(self.way) >= limits.SSH_SESSIONS:
            return KeyRefused()
        answer = await self.agent.ask(ask)
        # guard: a host is known by its signature
        if isinstance(answer, KeyDone):
            if ask.forwarding:
                self.way.append(ask.host_key)
            else:
                self.hosts[ask.session] = ask.host_key
        return answer

    async def _sign(self, ask: SignLogin | SignContent) -> AgentAnswer:
        if ask.key not in self.keys:
            await self._list()
        key = self.keys.get(ask.key)
        if key is None:
            return KeyRefused()
        bound = self.hosts.get(ask.session) if isinstance(ask, SignLogin) else None
        # guard: a login names the host of its session
        if isinstance(ask, SignLogin) and ask.host_key and bound != ask.host_key:
            return KeyRefused()
        request = self._request(ask, key, bound)
        try:
            async with self.decider.permit(request) as permit:
                # guard: a use is of the agent that its rule leads to
                if permit.target != self.target:
                    return KeyRefused()
                return await self.agent.ask(ask)
        except RefusedError:
            return KeyRefused()  # the decision is on record; another key may do

    # -- requests -----------------------------------------------------------------------

    def _request(
        self, ask: SignLogin | SignContent, key: AgentKey, bound: bytes | None
    ) -> Request:
        """Return the request for one use of a key."""
        name = _name(key)
        details = [("key", name)]
        host: str | None
        if isinstance(ask, SignContent):
            argument = f"{CONTENT}{ask.namespace}"
            host, words = "", "to sign something with an ssh key"
            details.append(("signed for", ask.namespace))
        else:
            argument = f"{LOGIN}{ask.user}"
            words = "to log in with an ssh key"
            host = None if bound is None else self._host(bound)
            details += [("user", ask.user), ("host", host or "not known")]
            if bound is not None:
                details.append(("host key", fingerprint(bound)))
            details += [("by way of", self._host(one)) for one in self.way]
        if self.target not in ADMIN_NAMES:
            words += f" of {untrusted_word(self.target)}"
        return replace(
            self.listing,
            argument=argument,
            key=name,
            host=host,
            words=words,
            details=tuple(details),
            ahead=False,
        )

    def _host(self, key: bytes) -> str:
        """Return a host's name, or its key's fingerprint where the user has no name."""
        names = names_of(key, self._named_hosts(), Path.home())
        return names[0] if names else fingerprint(key)

    def _named_hosts(self) -> tuple[str, ...]:
        engine, world = self.decider.world()
        return engine.sample_hosts(SSH_AGENT, self.guest.lease.sandbox, world)

    def _is_offered(self, key: AgentKey) -> bool:
        """Whether a rule lets a use of a key happen, or asks about it."""
        engine, _ = self.decider.world()
        arguments = {f"{LOGIN}{_OTHER}", f"{CONTENT}{_OTHER}"} | {
            rule.argument
            for rule in engine.rules
            if rule.service == SSH_AGENT and rule.argument is not None
        }
        for argument in sorted(arguments):
            for host in self._named_hosts():
                request = replace(
                    self.listing,
                    argument=argument,
                    key=_name(key),
                    host="" if argument.startswith(CONTENT) else host,
                    ahead=False,
                )
                answer = self.decider.preview(request)
                # guard: keys are listed by rule
                if answer is not None and answer.verdict in {"allow", "ask"}:
                    return True
        return False


def _name(key: AgentKey) -> str:
    """Return a key as rules and the user know it; a comment's blanks are hyphens."""
    comment = "-".join(key.comment.split())
    return f"{fingerprint(key.key)} {comment}"
