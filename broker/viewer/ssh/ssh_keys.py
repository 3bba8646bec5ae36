"""``vitrail.SshAgent``: keys of ssh that stay where they are, and are used by rule.

A program of a sandbox connects, and its worker decodes its requests to an agent.  The
connection is decided as ``+list``; each login and each signature of a content is decided
by itself, with the key, the user and the host that are signed.  The bytes that a key
signs are written of the same fields that the rules and the user saw, at the user's own
agent by ``session.ssh.agent_use``: a worker that was taken over may ask, and
not have anything else signed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

import trio

from broker.authority.permit import Permit, Request, request_of
from broker.core.errors import PeerError, RefusedError
from broker.core.lease import Lease
from broker.core.limits import ssh_agent as limits
from broker.core.prompt_words import VIEWER
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
    key_name,
    wrongly_signed,
)
from broker.ipc import transfer as messages
from broker.ipc.authority import Preview, ShownRule
from broker.net.caller_paces import CallPaces
from broker.viewer.authority.rule_hosts import named_hosts
from broker.viewer.calls.places import CallPlaces
from broker.viewer.exchange.failures import ShareableError, shareable_failures
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.orders.session_orders import UserSession
from broker.viewer.ssh.ssh_agents import (
    KeyAgent,
    NoAgentError,
    SandboxAgent,
    UserSsh,
    user_ssh,
)
from policy.names import ADMIN_NAMES, ANY_KEY, NO_NAME

if TYPE_CHECKING:
    from broker.viewer.authority.interface import Permits
    from broker.viewer.sandboxes.guest import Guest

LIST, LOGIN, CONTENT = "+list", "+login.", "+sign."
"""Arguments of requests: of a list, of a login before the user's name there, and of a
signature before the content's namespace."""
_REDIRECTED = "@default"


FarAgent = Callable[
    [Permit, GuestConnection], AbstractAsyncContextManager[SandboxAgent]
]


class SshKeys:
    """Serves the ssh agent connections of one viewer's sandboxes."""

    def __init__(
        self,
        decider: Permits,
        session: UserSession,
        far_agent: FarAgent,
        places: CallPlaces,
    ) -> None:
        """Set up the service.

        ``far_agent`` opens the ssh agent of a permit's target.
        """
        self._places = places
        self._decider = decider
        self._session = session
        self._far_agent = far_agent
        self._without_agent: set[str] = set()
        """Sandboxes whose user was notified that no agent answers."""
        self._paces = CallPaces(
            limits.SSH_REQUESTS_PER_SECOND, limits.SSH_REQUESTS_BURST
        )

    async def serve(self, exchange: GuestConnection, target: str) -> None:
        """Serve one connection of a sandbox's ssh program to its end.

        Raises VitrailError.
        """
        guest, opening = exchange.guest, exchange.opening
        request = request_of(opening, SSH_AGENT)
        if target:
            request = _to(request, target)
        else:
            usual = await usual_request(self._decider, request)
            request = usual or _to(request, VIEWER)
        async with self._decider.permit(request) as permit:
            if permit.target == guest.lease.sandbox:
                raise ShareableError("a sandbox cannot use its own ssh agent by a call")
            if permit.target in ADMIN_NAMES and permit.user is not None:
                raise ShareableError(
                    f"{permit.where}: the desktop does not support user="
                )
            own, most = guest.lease.record, 2 * limits.SSH_CONNECTIONS_PER_RECORD
            place = self._places.one(own, SSH_AGENT, most, own)
            # guard: a record's connections to ssh agents are few
            with shareable_failures(permit.target), place:
                async with (
                    self._user_ssh(permit, guest.lease) as ssh,
                    self._agent(permit, exchange, ssh) as agent,
                ):
                    await guest.order(messages.TransferServe(exchange.stream, "agent"))
                    talk = _Conversation(
                        self._decider, request, agent, guest, permit.target, ssh
                    )
                    await self._talk(talk, exchange)

    async def _talk(self, talk: _Conversation, exchange: GuestConnection) -> None:
        """Answer a program's requests to the ssh agent until the connection ends.

        Each request comes decoded from the worker.  The answer comes from the user's agent
        (a session child asks it) or another sandbox's (that sandbox's worker asks it), and
        the worker writes it to the program.
        """
        while True:
            asked = await _next_request(talk, exchange)
            # Requests of a sandbox to ssh agents are paced.
            await self._paces.wait(talk.guest.lease.id)
            if not isinstance(asked, AgentAsk):
                raise PeerError("the ssh agent sent an unexpected reply")
            answer = await talk.answer(asked)
            await talk.guest.order(messages.StreamTell(exchange.stream, answer))

    @asynccontextmanager
    async def _user_ssh(self, permit: Permit, lease: Lease) -> AsyncIterator[UserSsh]:
        """Open the user's own ssh; notify the user of each sandbox that finds no agent.

        Once, until there is one: ssh(1) asks for a password then, and says nothing of it.
        """
        try:
            async with user_ssh(self._session, permit) as ssh:
                self._without_agent.clear()
                yield ssh
        except NoAgentError as error:
            if lease.sandbox not in self._without_agent:
                self._without_agent.add(lease.sandbox)
                title = f"{lease.sandbox}: no ssh key was used"
                text = f"{error.message};\n{error.hint}"
                self._decider.notify(title, text, sandbox=lease.sandbox)
            raise

    def _agent(
        self, permit: Permit, exchange: GuestConnection, ssh: UserSsh
    ) -> AbstractAsyncContextManager[KeyAgent]:
        if permit.target in ADMIN_NAMES:
            return nullcontext(ssh)
        return self._far_agent(permit, exchange)


@dataclass
class _Conversation:
    """What one connection knows."""

    decider: Permits
    listing: Request
    agent: KeyAgent
    guest: Guest
    target: str
    """Whose agent it is, by the rule that allowed the connection."""
    ssh: UserSsh
    """Which names hosts."""
    keys: dict[bytes, AgentKey] = field(default_factory=dict)
    """Those of the agent, offered or not."""
    hosts: dict[bytes, bytes] = field(default_factory=dict)
    """The key of the host by session, which the agent has checked."""
    way: list[bytes] = field(default_factory=list)
    """Keys of the hosts that carry the agent on."""
    left: bool = False
    """Whether the agent has a request whose answer was not awaited to its end."""

    async def answer(self, ask: AgentAsk) -> AgentAnswer:
        """Answer a request to the ssh agent; a denied one is refused."""
        match ask:
            case ListKeys():
                await self._list()
                return KeyList(tuple(await self._offered()))
            case BindSession():
                return await self._bind(ask)
            case SignLogin() | SignContent():
                return await self._sign(ask)

    async def _list(self) -> None:
        answer = await self.agent.ask(ListKeys())
        if isinstance(answer, KeyList):
            self.keys = {one.key: one for one in answer.keys}

    async def _bind(self, ask: BindSession) -> AgentAnswer:
        """Have the agent check the host's signature of a session id.

        Note the host's names.
        """
        # guard: sessions of a connection to an ssh agent are few
        if len(self.hosts) + len(self.way) >= limits.SSH_SESSIONS:
            return KeyRefused()
        # The user's own agent is tried by who asks it.
        if self.target not in ADMIN_NAMES:
            tried = await self.agent.ask(wrongly_signed(ask))
            # guard: an agent that accepts any signature names no host
            if not isinstance(tried, KeyRefused):
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
        """Have a key sign a login or content if a permit allows it.

        Return the answer.
        """
        if ask.key not in self.keys:
            await self._list()
        key = self.keys.get(ask.key)
        if key is None:
            return KeyRefused()
        bound = self.hosts.get(ask.session) if isinstance(ask, SignLogin) else None
        # guard: a login names the host of its session
        if isinstance(ask, SignLogin) and ask.host_key and bound != ask.host_key:
            return KeyRefused()
        request = await self._request(ask, key, bound)
        try:
            async with self.decider.permit(request) as permit:
                # guard: a use is of the agent that its rule leads to
                if permit.target != self.target:
                    return KeyRefused()
                self.left = True
                answer = await self.agent.ask(ask, permit.warrant)
                self.left = False
                return answer
        except RefusedError:
            # Its late answer would be taken for that of the next request.
            # guard: an agent that was left with a request is not asked again
            if self.left:
                raise
            return KeyRefused()  # the decision is on record; another key may do

    # -- requests -----------------------------------------------------------------------

    async def _request(
        self, ask: SignLogin | SignContent, key: AgentKey, bound: bytes | None
    ) -> Request:
        """Return the permit request for one use of a key."""
        name = key_name(key)
        host: str | None
        claims: list[tuple[str, str]] = []
        if isinstance(ask, SignContent):
            argument = f"{CONTENT}{ask.namespace}"
            host = ""
        else:
            argument = f"{LOGIN}{ask.user}"
            host, unnamed = (None, "") if bound is None else await self._host(bound)
            claims = [("by way of", (await self._host(one))[0]) for one in self.way]
            if unnamed:
                claims.append(("known hosts", unnamed))
        return replace(
            self.listing,
            argument=argument,
            key=name,
            host=host,
            about="" if bound is None else fingerprint(bound),
            claims=tuple(claims),
            ahead=False,
        )

    async def _host(self, key: bytes) -> tuple[str, str]:
        """Return a host's name; without one its key's fingerprint, and why."""
        host = await self.ssh.host(key, named_hosts(await self._rules()))
        if host.names:
            return host.names[0], ""
        hashed = f"the name in {host.hashed} is hashed"
        return fingerprint(key), hashed if host.hashed else "no host has this key"

    async def _rules(self) -> Sequence[ShownRule]:
        return await self.decider.rules_about(SSH_AGENT, self.guest.lease.sandbox)

    async def _offered(self) -> list[AgentKey]:
        """Return the keys whose use a rule allows or asks about."""
        rules = await self._rules()
        arguments = {f"{LOGIN}{NO_NAME}", f"{CONTENT}{NO_NAME}"} | {
            rule.argument
            for rule in rules
            if rule.service == SSH_AGENT and rule.argument is not None
        }
        offered: set[bytes] = set()
        for argument in sorted(arguments):
            hosts = [""] if argument.startswith(CONTENT) else named_hosts(rules)
            uses = [
                (
                    key,
                    replace(
                        self.listing,
                        argument=argument,
                        key=key_name(key),
                        host=host,
                        ahead=False,
                    ),
                )
                for key in self.keys.values()
                if key.key not in offered
                for host in hosts
            ]
            answers = await self.decider.preview([use for _, use in uses])
            # guard: keys are listed by rule
            offered |= {
                key.key
                for (key, _), one in zip(uses, answers, strict=True)
                if _grants(one)
            }
        return [one for one in self.keys.values() if one.key in offered]


async def _next_request(talk: _Conversation, exchange: GuestConnection) -> object:
    """Return the next request of a connection.

    Raises ShareableError where it has no session, and is silent.
    """
    with trio.move_on_after(limits.SSH_UNBOUND_SECONDS) as patience:
        # guard: a connection to an ssh agent without a session ends when it is silent
        if talk.hosts or talk.way:
            patience.deadline = inf
        return await exchange.said()
    raise ShareableError("the connection to the ssh agent was silent for too long")


def _grants(answer: Preview | None) -> bool:
    return answer is not None and answer.verdict in {"allow", "ask"}


async def usual_request(decider: Permits, request: Request) -> Request | None:
    """Return the request for keys of the first agent that a rule leads to.

    None where no rule lets this sandbox use a key, or asks about it.
    """
    rules = await decider.rules_about(SSH_AGENT, request.lease.sandbox)
    # Of many sandboxes none is the usual one.
    named = [VIEWER if x.target == "*" else x.target for x in rules if x.service]
    found = [_to(request, target) for target in dict.fromkeys(named)]
    answers = await decider.preview(found)
    return next((x for x, y in zip(found, answers, strict=True) if _grants(y)), None)


async def has_keys(decider: Permits, lease: Lease) -> bool:
    """Return whether a rule allows or asks about keys of some agent."""
    request = Request(lease=lease, service=SSH_AGENT)
    return await usual_request(decider, request) is not None


def _to(request: Request, target: str) -> Request:
    """Return the request for the list of keys of a target's agent."""
    redirected = target == _REDIRECTED
    return replace(
        request,
        argument=LIST,
        target="" if redirected else target,
        key=ANY_KEY,
        settled=not redirected,
        ahead=True,
        counts_bytes=False,
    )
