"""Attack: 'brokerctl lockdown' comes while a broker starts that does not answer yet."""

from __future__ import annotations

import trio

from broker.authority.lockdown import keep_lockdown, lockdown_file
from broker.cli.menu import lockdown
from broker.cli.run.connect import broker_runs
from broker.core.errors import SetupError
from broker.ipc.control.api import LockdownAnswer
from tests.kit.brokerctl import called, home
from tests.kit.eventually import eventually
from tests.kit.world import record, world


async def test_a_lockdown_holds_in_a_broker_that_is_being_started():
    """It has looked for one by then; brokerctl finds no broker, and stores it."""
    async with world({"app": record()}, start=False, image=False) as w:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.start)
            await eventually(lambda: _begun(w), every=0.002)
            answered = broker_runs(w.paths)
            keep_lockdown(lockdown_file(w.paths), networks=False)
        assert not answered, "it was too late to try"
        warnings = (await w.status()).warnings
        assert any("LOCKDOWN" in warning for warning in warnings)


def _begun(w):
    """Whether the authority has been made: the records come first, then the rules."""
    try:
        return len(w.events("policy.loaded")) > 1
    except SetupError:
        return False


def test_a_broker_that_answers_once_it_is_stored_is_asked(monkeypatch):
    answers, asked = [False, True], []

    def ask(method, request):
        asked.append(request.begin)
        return LockdownAnswer(locked=True, networks=False)

    monkeypatch.setattr(lockdown, "broker_runs", lambda _: answers.pop(0))
    monkeypatch.setattr(lockdown, "ask", ask)
    with home() as env:
        assert called("lockdown", "--json", env=env).code == 0
    assert asked == [True]
