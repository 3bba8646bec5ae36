"""The leases of one connection, as both ends note them: one book, whatever crosses."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.core import limits
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.ipc.host_rows import LEASE_BEGUN, LEASE_ENDED, LeaseBegun, LeaseEnded
from broker.net.link_service.lease_ledger import LeaseLedger


def lease(n, name="web"):
    return Lease(LeaseId(f"{n:016x}"), SandboxName(name), SandboxName("web"), n)


class Both:
    """Both ends' books, with the calls between them in hand."""

    def __init__(self):
        self.host, self.viewer = (
            LeaseLedger(reconnects=True),
            LeaseLedger(reconnects=True),
        )
        self.calls = 0
        self.to_viewer, self.served, self.to_host = deque(), [], deque()

    def call(self, row, request):
        """The host makes a call."""
        self.host.note_call(self.calls + 1, row, request)
        self.calls += 1
        self.to_viewer.append((self.calls, row, request))
        return self.calls

    def begin(self, of):
        return self.call(LEASE_BEGUN, LeaseBegun.of(of, "cid 42"))

    def end(self, of):
        return self.call(LEASE_ENDED, LeaseEnded(of.id, "gone"))

    def deliver(self):
        """The viewer reads a call."""
        call = self.to_viewer.popleft()
        self.viewer.note_call(*call)
        self.served.append(call)

    def answer(self, which=0, *, is_done=True):
        """The viewer answers a call that it serves."""
        call = self.served.pop(which)
        self.viewer.note_answer(*call, is_done=is_done)
        self.to_host.append((call, is_done))

    def hear(self):
        """The host reads an answer."""
        call, is_done = self.to_host.popleft()
        self.host.note_answer(*call, is_done=is_done)

    def books(self):
        return self.host.leases, self.viewer.leases


def test_lease_is_usable_from_done_to_its_end_on_both_ends():
    both, only = Both(), lease(1)
    host, viewer = both.books()
    both.begin(only)
    both.deliver()
    assert host.usable(only.id) is viewer.usable(only.id) is None
    both.answer()
    assert viewer.usable(only.id).lease == only
    assert host.usable(only.id) is None
    both.hear()
    assert host.usable(only.id).peer == "cid 42"
    both.end(only)
    assert host.usable(only.id) is None
    both.deliver()
    assert viewer.usable(only.id) is None
    assert host.all() == viewer.all() == []


def test_refused_announcement_has_no_streams_and_waits_for_its_end():
    both = Both()
    both.begin(lease(1))
    both.deliver()
    both.answer(is_done=False)
    both.hear()
    for book in both.books():
        assert book.usable(lease(1).id) is None
        assert book.get(lease(1).id)
    both.end(lease(1))
    both.deliver()
    assert [book.all() for book in both.books()] == [[], []]


def test_a_refusal_that_crosses_with_the_end_of_the_lease():
    """Found by the state machine below: it cut off two honest ends."""
    both = Both()
    both.begin(lease(1))
    both.deliver()
    both.answer(is_done=False)
    both.end(lease(1))
    both.hear()
    both.deliver()
    both.answer()
    both.hear()
    assert [book.all() for book in both.books()] == [[], []]


def test_a_lease_that_has_ended_is_not_announced_again():
    both = Both()
    both.begin(lease(1))
    both.end(lease(1))
    with pytest.raises(ValueError, match="announced again"):
        both.begin(lease(1))
    both.deliver()
    both.deliver()
    both.answer()
    both.hear()
    for book in both.books():
        assert book.usable(lease(1).id) is None


@pytest.mark.parametrize(
    ("row", "request_", "says"),
    [
        (LEASE_BEGUN, LeaseBegun.of(lease(1), "p"), "announced twice"),
        (LEASE_BEGUN, LeaseBegun.of(lease(2), "p"), "sandbox web has a second lease"),
        (LEASE_ENDED, LeaseEnded(lease(3).id, ""), "never announced"),
    ],
)
def test_a_call_that_breaks_the_rules_is_refused_at_either_end(row, request_, says):
    both = Both()
    both.begin(lease(1))
    both.deliver()
    for ledger in (both.host, both.viewer):
        with pytest.raises(ValueError, match=says):
            ledger.note_call(9, row, request_)


def test_leases_at_n_and_n_plus_1():
    both = Both()
    for n in range(limits.LEASES):
        both.begin(lease(n + 1, f"s{n}"))
        both.deliver()
    for ledger in (both.host, both.viewer):
        with pytest.raises(ValueError, match="more than"):
            ledger.note_call(5000, LEASE_BEGUN, LeaseBegun.of(lease(9999, "more"), "p"))


class LedgerMachine(RuleBasedStateMachine):
    """Calls and answers cross as they like; then both books are the model's."""

    def __init__(self):
        super().__init__()
        self.both = Both()
        self.live = {}
        self.next = 1

    @rule(name=st.sampled_from(["a", "b", "c"]))
    def lease_begins(self, name):
        if name not in self.live.values():
            new_lease = lease(self.next, name)
            self.next += 1
            self.live[new_lease.id] = name
            self.both.begin(new_lease)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def lease_ends(self, data):
        which = data.draw(st.sampled_from(sorted(self.live)))
        del self.live[which]
        self.both.call(LEASE_ENDED, LeaseEnded(which, "over"))

    @precondition(lambda self: self.both.to_viewer)
    @rule()
    def deliver(self):
        self.both.deliver()

    @precondition(lambda self: self.both.served)
    @rule(data=st.data(), is_done=st.booleans())
    def answer(self, data, is_done):
        which = data.draw(st.integers(0, len(self.both.served) - 1))
        self.both.answer(which, is_done=is_done)

    @precondition(lambda self: self.both.to_host)
    @rule()
    def hear(self):
        self.both.hear()

    def teardown(self):
        while self.both.to_viewer:
            self.both.deliver()
        while self.both.served:
            self.both.answer()
        while self.both.to_host:
            self.both.hear()
        host, viewer = self.both.books()
        assert {a.lease.id for a in host.all()} == set(self.live)
        assert host.all() == viewer.all()


def test_ledger_as_a_state_machine():
    run_state_machine_as_test(LedgerMachine, settings=settings(stateful_step_count=40))
