"""Several sandboxes at one security key: whose touch it is, and who has to wait."""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from broker.core.lease import Opening
from broker.core.limits import devices as device_limits
from broker.core.services import SECURITY_KEY
from broker.viewer.security_keys import security_keys
from broker.viewer.security_keys.shared_key import SharedKey
from tests.kit.rulebook import VAULT, WORK, rulebook, yes

_RULES = """
vitrail.SecurityKey * work @adminvm allow host=own.example
vitrail.SecurityKey * vault @adminvm ask host=bank.example
"""


class Process:
    """A connection's process; its guest may have taken it over."""

    def __init__(self, sock):
        self.sock, self.number = sock, 0
        self.ended, self.may_end = False, trio.Event()
        self.may_end.set()

    async def end(self):
        """It is ended, which takes as long as the test wants."""
        with trio.CancelScope(shield=True):
            await self.may_end.wait()
        self.ended = True

    def ask(self, host, what="sign in"):
        self.number += 1
        self.say(ask=self.number, what=what, host=host)

    def say(self, **message):
        self.sock.send(json.dumps(message).encode())

    def over(self):
        self.say(over=self.number)

    async def verdict(self):
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(self.sock)
        said = json.loads(self.sock.recv(1024))
        assert said["verdict"] == self.number
        return said["allow"]

    async def waits(self):
        """Nothing is said to it, and nothing is going on."""
        await trio.testing.wait_all_tasks_blocked(0.1)
        try:
            return not self.sock.recv(1024, socket.MSG_PEEK)
        except BlockingIOError:
            return True


@asynccontextmanager
async def process(decider, shared, lease):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    opening = Opening(lease, SECURITY_KEY, 1, "cid 20")
    with ours, theirs:
        ours.settimeout(0)
        theirs.settimeout(0)
        async with trio.open_nursery() as nursery:
            made = Process(theirs)
            ask = opening, decider, shared, ours
            questions = security_keys._Questions(*ask, made.end)
            nursery.start_soon(questions.serve)
            yield made
            nursery.cancel_scope.cancel()


class Indicator:
    def __init__(self):
        self.said = []

    def show(self, _kind, sandbox, *, active, title=""):
        assert sandbox == "work" or not title.startswith("work ")
        self.said.append((title, active))


@asynccontextmanager
async def key(*leases):
    """The processes of these leases at one key."""
    indicator = Indicator()
    shared = SharedKey(indicator)
    async with rulebook(_RULES) as b:
        b.person.says = yes()
        async with trio.open_nursery() as nursery:
            found = []

            async def one(lease, task_status):
                async with process(b.decider, shared, lease) as made:
                    task_status.started(made)
                    await trio.sleep_forever()

            for lease in leases:
                found.append(
                    await nursery.start(lambda lease=lease, **k: one(lease, **k))
                )
            yield b, indicator, found
            nursery.cancel_scope.cancel()


async def test_touch_for_one_sandbox_signs_no_request_of_another():
    """The user is asked about a request when it is the only one at the key."""
    async with key(WORK, VAULT) as (b, _, (work, vault)):
        work.ask("own.example")
        assert await work.verdict()
        vault.ask("bank.example")
        assert await vault.waits()
        assert b.person.asked == []
        work.over()
        assert await vault.verdict()
        assert len(b.person.asked) == 1
        work.ask("own.example")
        assert await work.waits()


async def test_touch_after_an_answer_is_for_the_request_that_was_asked_about():
    """Nor does a request come between the question and the touch."""
    async with key(WORK, VAULT) as (b, _, (work, vault)):
        b.person.says = None
        vault.ask("bank.example")
        with trio.fail_after(60):
            await b.person.wait_asked(1)
        work.ask("own.example")
        assert await work.waits()
        vault.over()
        assert await work.verdict()


async def test_who_has_the_key_is_shown_while_it_does():
    async with key(WORK) as (_, indicator, (work,)):
        text = "work is waiting for your touch to sign in to own.example"
        text += " with your security key"
        work.ask("own.example")
        assert await work.verdict()
        assert indicator.said == [(text, True)]
        work.over()
        assert await work.waits()
        assert indicator.said == [(text, True), ("", False)]


async def test_process_that_keeps_the_key_loses_it(monkeypatch):
    monkeypatch.setattr(device_limits, "SECURITY_KEY_TURN_SECONDS", 0.05)
    async with key(WORK, VAULT) as (_, _, (work, vault)):
        work.ask("own.example")
        assert await work.verdict()
        vault.ask("bank.example")
        assert not await work.verdict(), "cancel it at the key"
        assert await vault.verdict()


@pytest.mark.parametrize("how", ["late", "wrong"])
async def test_touch_for_the_next_one_signs_no_request_that_was_given_up(
    monkeypatch, how
):
    """A process that is slow to cancel (its guest may see to that) has ended first."""
    monkeypatch.setattr(device_limits, "SECURITY_KEY_TURN_SECONDS", 0.05)
    monkeypatch.setattr(security_keys, "_CANCEL_SECONDS", 0.05)
    async with key(WORK, VAULT) as (b, _, (work, vault)):
        work.may_end = trio.Event()
        work.ask("own.example")
        assert await work.verdict()
        vault.ask("bank.example")
        if how == "wrong":
            work.say(ask="no number")
        else:
            assert not await work.verdict(), "cancel it at the key"
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert b.person.asked == []
        work.may_end.set()
        assert await vault.verdict()
        assert work.ended


async def test_programs_of_one_record_wait_as_one():
    """Else the four of each sandbox would keep the others from the key."""
    async with key(WORK, WORK, WORK, VAULT) as (_, _, (first, second, third, vault)):
        first.ask("own.example")
        assert await first.verdict()
        second.ask("own.example")
        third.ask("own.example")
        assert await third.waits()
        vault.ask("bank.example")
        assert await vault.waits()
        first.over()
        assert await vault.verdict()
        assert await second.waits()


async def test_requests_that_are_not_asked_about_have_the_pace_of_their_record(
    autojump_clock,
):
    """Which key it is, tries of its PIN: in a loop they keep the others from it."""
    seconds, shared = 5, SharedKey()
    count = device_limits.SECURITY_KEY_REQUESTS_BURST
    count += seconds * device_limits.SECURITY_KEY_REQUESTS_PER_SECOND
    begin = trio.current_time()
    for _ in range(2):
        async with process(None, shared, WORK) as made:
            for _ in range(count // 2):
                made.ask("", "read")
                with trio.fail_after(100):
                    await trio.lowlevel.wait_readable(made.sock)
                assert await made.verdict()
                made.over()
    assert trio.current_time() - begin > seconds - 1
    async with process(None, shared, VAULT) as made:
        before = trio.current_time()
        made.ask("", "read")
        assert await made.verdict()
        assert trio.current_time() == pytest.approx(before)
