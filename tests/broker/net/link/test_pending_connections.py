"""How many connections may wait unproved, and until when."""

from __future__ import annotations

from broker.core.limits import link as limits
from broker.net.link.pending_connections import PendingConnections

PLACES = limits.LINK_UNAUTHENTICATED_PER_PEER


def test_a_peer_s_limit_at_n_and_n_plus_1():
    room = PendingConnections()
    entered = [room.enter("cid 2", 0.0) for _ in range(PLACES)]
    tickets = [ticket for ticket, _ in entered]
    assert not any(pushed for _, pushed in entered)
    assert room.enter("cid 2", 0.0)[1] is tickets[0], "the oldest one goes"
    assert len(room) == PLACES
    assert room.enter("cid 3", 0.0)[1] is None, "another peer has its own places"
    room.leave(tickets[1])
    room.leave(tickets[1])  # twice counts once
    room.leave(tickets[0])  # and so does one that was pushed out
    assert room.enter("cid 2", 0.0)[1] is None
    assert room.enter("cid 2", 0.0)[1] is tickets[2]


def test_who_has_named_a_pinned_key_goes_last():
    room = PendingConnections()
    honest, _ = room.enter("cid 2", 0.0)
    honest.known = True
    silent = [room.enter("cid 2", 0.0)[0] for _ in range(PLACES - 1)]
    for ticket in silent:
        assert room.enter("cid 2", 0.0)[1] is ticket
    # A connection that shows the same key can push it out, after all older ones.
    room = PendingConnections()
    all_known = [room.enter("cid 2", 0.0)[0] for _ in range(PLACES)]
    for ticket in all_known:
        ticket.known = True
    assert room.enter("cid 2", 0.0)[1] is all_known[0]


def test_the_limit_of_all_at_n_and_n_plus_1():
    room = PendingConnections()
    few, pushed = room.enter("cid 9", 0.0)
    for n in range(limits.LINK_UNAUTHENTICATED - 1):
        _, pushed = room.enter(f"cid {n % 3 + 2}", 0.0)
        assert pushed is None
    _, pushed = room.enter("cid 2", 0.0)
    assert pushed is not None
    assert pushed is not few, "the crowd makes room, not who stands beside it"
    assert len(room) == limits.LINK_UNAUTHENTICATED


def test_each_waits_until_its_own_deadline_and_none_is_left():
    room = PendingConnections()
    one, _ = room.enter("a", 100.0)
    two, _ = room.enter("a", 101.0)
    assert one.deadline == 100.0 + limits.LINK_HANDSHAKE_SECONDS
    assert two.deadline == 101.0 + limits.LINK_HANDSHAKE_SECONDS
    room.leave(one)
    assert len(room) == 1
    room.leave(two)
    assert len(room) == 0
    assert not room._of_peer


def test_ten_thousand_come_and_stay_and_few_are_held():
    room = PendingConnections()
    pushed = 0
    for n in range(10_000):
        pushed += room.enter("stranger", float(n) / 1000)[1] is not None
        assert len(room) <= PLACES
    assert pushed == 10_000 - PLACES
    assert dict(room._of_peer) == {"stranger": PLACES}
