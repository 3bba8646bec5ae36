"""Requests to suspend sandboxes: the guest's state follows the host's answer."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.ipc.control import api, method
from broker.viewer.sandboxes.suspending import SuspendControl
from broker.wire.faults import NotFoundError
from tests.kit.link.roles import LEASE

EXCHANGE = method.Exchange(api.Caller(pid=7, uid=1000), more=False, emit=None)


class Host:
    """A host that may be out of reach."""

    def __init__(self):
        self.asked = []
        self.unreachable = self.refuses = False

    async def suspend(self, lease, *, suspended):
        assert GUEST.suspended  # no request may come meanwhile
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise RefusedError("only micro VMs can be suspended")
        if self.unreachable:
            raise UpstreamError("the host cannot be reached")
        self.asked.append((lease, suspended))


class Senses:
    """The guest's microphone, a camera, a screen: when they were taken away."""

    def __init__(self):
        self.taken = []

    async def set_microphone(self, *, allow):
        self.taken.append((allow, GUEST.suspended))

    async def take_back(self, sandbox):
        self.taken.append((sandbox, GUEST.suspended))


GUEST = SimpleNamespace(
    suspended=False, stopping=False, state="running", sound=Senses()
)


@pytest.fixture
def host():
    GUEST.suspended, GUEST.stopping, GUEST.state = False, False, "running"
    return Host()


async def test_a_suspended_sandbox_has_no_microphone_and_no_camera(host):
    """What it records would wait in queues until it is resumed."""
    senses = GUEST.sound = Senses()
    await ask(host, suspended=True, senses=senses)
    await ask(host, suspended=False, senses=senses)
    assert senses.taken == [(False, True), ("a", True), ("a", True)]


def viewer_with(senses):
    return SimpleNamespace(
        guest=lambda lease: GUEST if lease == LEASE.id else None,
        cameras=senses,
        screens=senses,
    )


async def ask(host, *, suspended, sandbox="a", senses=None):
    viewer = viewer_with(senses or Senses())
    control = SuspendControl(host, viewer, lambda: [LEASE])
    request = wish(sandbox, suspended=suspended)
    return (await control.suspend(EXCHANGE, request)).sandboxes


def wish(sandbox="a", *, suspended):
    return api.SuspendRequest(sandbox=sandbox, suspended=suspended)


async def test_a_sandbox_is_suspended_once_and_resumed(host):
    for wanted in (True, True, False, False):
        assert await ask(host, suspended=wanted) == ["a"]
        assert GUEST.suspended is wanted
    assert host.asked == [(LEASE.id, True), (LEASE.id, False)]


@pytest.mark.parametrize("was", [False, True])
async def test_a_host_that_refuses_leaves_it_as_it_was(host, was):
    GUEST.suspended, host.refuses = was, True
    with pytest.raises(RefusedError):
        await ask(host, suspended=not was)
    assert GUEST.suspended is was


@pytest.mark.parametrize("lost", ["client", "host"])
@pytest.mark.parametrize("was", [False, True])
async def test_what_the_host_may_have_done_can_be_asked_for_again(host, was, lost):
    """Else a machine that is stopped is taken for one that runs: nothing resumes it."""
    control = SuspendControl(host, viewer_with(Senses()), lambda: [LEASE])
    for again in ((False,), (True, False)):
        GUEST.suspended, host.unreachable = was, lost == "host"
        with trio.CancelScope() as scope, suppress(UpstreamError):
            if lost == "client":
                scope.cancel()
            await control.suspend(EXCHANGE, wish(suspended=not was))
        assert GUEST.suspended, "it is asked for nothing else"
        host.unreachable, host.asked = False, []
        for wanted in again:
            await control.suspend(EXCHANGE, wish(suspended=wanted))
        assert host.asked == [(LEASE.id, wanted) for wanted in again]


@pytest.mark.parametrize("change", [{"state": "starting"}, {"stopping": True}])
async def test_what_starts_or_stops_is_refused(host, change):
    for name, value in change.items():
        setattr(GUEST, name, value)
    with pytest.raises(RefusedError, match="a is starting or stopping"):
        await ask(host, suspended=True)
    assert not GUEST.suspended


async def test_an_unknown_name_is_said(host):
    with pytest.raises(NotFoundError, match="no sandbox 'b' is running"):
        await ask(host, suspended=True, sandbox="b")
