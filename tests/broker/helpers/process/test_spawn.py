"""Ends of processes, where the kernel has no room for the question."""

from __future__ import annotations

import os
import select
import socket

import pytest
import trio

from broker.helpers.process import polled, spawn
from broker.viewer.hung_up import when_hung_up


class Forgetful:
    """poll(2) that finds no memory at first."""

    def __init__(self, code):
        self._poll, self._failures = _REAL(), [code]

    def register(self, *words):
        self._poll.register(*words)

    def poll(self, timeout):
        if self._failures:
            raise OSError(self._failures.pop(), "no room")
        return self._poll.poll(timeout)


_REAL = select.poll


@pytest.mark.parametrize("code", [12, 22])
def test_an_end_is_seen_although_there_was_no_memory_for_a_moment(monkeypatch, code):
    """Attack: a worker whose end was not seen kept its sandbox's stop waiting for ever."""
    monkeypatch.setattr(select, "poll", lambda: Forgetful(code))
    own = os.pidfd_open(os.getpid())
    try:
        if code == 12:
            assert not spawn.has_ended(own)
        else:
            with pytest.raises(OSError, match="no room"):
                spawn.has_ended(own)
    finally:
        os.close(own)


def test_who_is_not_known_to_live_is_not_taken_for_a_living_process(monkeypatch):
    """Attack: a number that is used again, and no memory to see that its process ended."""
    monkeypatch.setattr(select, "poll", lambda: Forgetful(12))
    own = os.pidfd_open(os.getpid())
    try:
        assert not polled.lives(own)
        monkeypatch.undo()
        assert polled.lives(own)
    finally:
        os.close(own)


async def test_a_look_at_a_connection_without_memory_is_repeated(
    monkeypatch, autojump_clock
):
    ours, theirs = socket.socketpair()
    told = trio.Event()
    once = [Forgetful(12)]
    monkeypatch.setattr(select, "poll", lambda: once.pop() if once else _REAL())
    with ours:
        theirs.close()
        with trio.fail_after(60):
            await when_hung_up(ours, trio.Event(), told.set)
    assert told.is_set()
    assert not once
