"""How many connections may wait unproved, and until when."""

from __future__ import annotations

import pytest

from broker.core import limits
from broker.core.errors import RefusedError
from broker.link.waiting import WaitingRoom


def test_a_peer_s_limit_at_n_and_n_plus_1():
    room = WaitingRoom()
    for _ in range(limits.LINK_UNAUTHENTICATED_PER_PEER):
        ticket = room.enter("cid 2", 0.0)
    with pytest.raises(RefusedError, match="cid 2"):
        room.enter("cid 2", 0.0)
    room.enter("cid 3", 0.0)
    room.leave(ticket)
    room.leave(ticket)  # twice counts once
    room.enter("cid 2", 0.0)
    with pytest.raises(RefusedError):
        room.enter("cid 2", 0.0)


def test_the_limit_of_all_at_n_and_n_plus_1():
    room = WaitingRoom()
    for n in range(limits.LINK_UNAUTHENTICATED):
        room.enter(f"cid {n + 3}", 0.0)
    with pytest.raises(RefusedError):
        room.enter("cid 2", 0.0)


def test_overdue_at_the_deadline_and_not_before():
    room = WaitingRoom()
    one = room.enter("a", 100.0)
    two = room.enter("a", 101.0)
    assert room.overdue(100.0 + limits.LINK_HANDSHAKE_SECONDS - 0.001) == []
    assert room.overdue(100.0 + limits.LINK_HANDSHAKE_SECONDS) == [one]
    room.leave(one)
    assert room.overdue(1e9) == [two]
    room.leave(two)
    assert len(room) == 0
    assert not room._of_peer


def test_ten_thousand_come_and_go_and_nothing_stays():
    room = WaitingRoom()
    inside = []
    refused = 0
    for n in range(10_000):
        try:
            inside.append(room.enter("stranger", float(n) / 1000))
        except RefusedError:
            refused += 1
        for ticket in room.overdue(float(n) / 1000):
            room.leave(ticket)
            inside.remove(ticket)
    assert refused > 9_900
    assert len(room) == len(inside) <= limits.LINK_UNAUTHENTICATED_PER_PEER
