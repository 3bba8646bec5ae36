"""ssh keys of the desktop: a missing agent, and hosts without a readable name."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from broker.authority.permit import Request
from broker.core.errors import RefusedError, SetupError
from broker.core.language.notices import in_users_language
from broker.core.lease import Opening
from broker.core.services import CALL, SSH_AGENT
from broker.core.ssh_agent import AgentKey, SignLogin, fingerprint
from broker.ipc.session.service_orders import KnownHost
from broker.viewer.calls.places import CallPlaces
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.ssh.ssh_keys import SshKeys, _Conversation
from policy.rules.wording import is_known
from tests.kit.link.roles import LEASE


class Session:
    """Session children; ``agent``: whether the user has one."""

    agent = False

    @asynccontextmanager
    async def carrying_out(self, _row, order, *, warrant):
        del order
        if not self.agent:
            raise SetupError("the user's desktop has no ssh agent")

        @asynccontextmanager
        async def hold(_renewed):
            yield

        yield SimpleNamespace(held=hold)


class Decider:
    def __init__(self):
        self.notes = []

    @asynccontextmanager
    async def permit(self, _request):
        yield SimpleNamespace(
            target="dom0", user=None, where="30.policy:1", warrant=b"", renewed=None
        )

    async def rules_about(self, *_):
        return ()

    def notify(self, title, text, *, sandbox=""):
        self.notes.append((title, text, sandbox))


async def connect(keys, error):
    async def order(_):
        raise RefusedError("the guest has gone")

    guest = SimpleNamespace(lease=LEASE, order=order)
    opening = Opening(LEASE, CALL, 1, "vsock:3")
    with pytest.raises(RefusedError, match=error):
        await keys.serve(GuestConnection(guest, opening), "dom0")


async def test_a_missing_agent_is_notified_once_until_there_is_one():
    """ssh(1) asks for a password in the sandbox, and its user does not learn why."""
    decider, session = Decider(), Session()
    keys = SshKeys(decider, session, None, CallPlaces())
    await connect(keys, "no ssh agent that the broker can connect to")
    await connect(keys, "no ssh agent that the broker can connect to")
    ((title, text, sandbox),) = decider.notes
    assert (title, sandbox) == (f"{LEASE.sandbox}: no ssh key was used", LEASE.sandbox)
    assert "run 'brokerctl restart' in a shell where SSH_AUTH_SOCK" in text
    # Each line is a sentence of the catalogue, without the mark between the two.
    title, *lines = (in_users_language(x, ["de"]) for x in (title, *text.split(";\n")))
    assert title == f"{LEASE.sandbox}: Es wurde kein ssh-Schlüssel benutzt"
    assert "brokerctl restart" in lines[1]
    assert lines[1] != text.split(";\n")[1]
    session.agent = True
    await connect(keys, "rejected the request")
    session.agent = False
    await connect(keys, "no ssh agent")
    assert len(decider.notes) == 2


@pytest.mark.parametrize(
    ("record", "host", "claim"),
    [
        (KnownHost(("git.test",), "line 3 of ~/.ssh/known_hosts"), "git.test", None),
        (
            KnownHost((), "line 3 of ~/.ssh/known_hosts"),
            fingerprint(b"host key"),
            "the name in line 3 of ~/.ssh/known_hosts is hashed",
        ),
        (KnownHost(), fingerprint(b"host key"), "no host has this key"),
    ],
)
async def test_question_about_a_host_without_name_says_why(record, host, claim):
    async def find(_key, _candidates):
        return record

    listing = Request(lease=LEASE, service=SSH_AGENT, stream=1)
    guest, ssh = SimpleNamespace(lease=LEASE), SimpleNamespace(host=find)
    talk = _Conversation(Decider(), listing, None, guest, "dom0", ssh)
    ask = SignLogin(b"key", 0, b"session", "git", b"host key", "ssh-ed25519")
    request = await talk._request(ask, AgentKey(b"key", "me@desk"), b"host key")
    assert request.host == host
    assert request.about == fingerprint(b"host key")
    assert dict(request.claims).get("known hosts") == claim
    assert is_known(SSH_AGENT, "", [title for title, _ in request.claims])
