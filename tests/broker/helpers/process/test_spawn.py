"""Ends of processes, where the kernel has no room for the question."""

from __future__ import annotations

import os
import select

import pytest

from broker.helpers.process import spawn


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
