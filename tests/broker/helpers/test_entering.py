"""The way into a worker's jail, where the kernel has no room for one of its steps."""

from __future__ import annotations

import os

import pytest

from broker.core.errors import SetupError
from broker.helpers.worker_jail import entering


@pytest.mark.parametrize("step", ["pipe2", "fork"])
def test_a_start_that_fails_leaves_no_descriptor(monkeypatch, step):
    """Attack: a sandbox uses up what the user may have, and a start after another fails."""
    monkeypatch.setattr(entering, "prctl", lambda *_: None)
    before, real, calls = os.listdir("/proc/self/fd"), getattr(os, step), []

    def fail(*words):
        calls.append(words)
        if step == "pipe2" and len(calls) == 1:
            return real(*words)
        raise BlockingIOError(11, "no room")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(BlockingIOError):
        entering.fork_jailed(lambda _jail: None, ())
    monkeypatch.undo()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("failed", "hint"),
    [
        ("host name: Operation not permitted", "sethostname"),
        ("new namespaces: Operation not permitted", "user namespaces"),
    ],
)
def test_what_a_container_s_filter_took_away_is_named(failed, hint):
    with pytest.raises(SetupError) as refused:
        entering._judge([entering._Report(failed=failed)])
    assert hint in refused.value.hint
