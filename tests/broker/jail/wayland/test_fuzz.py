"""The fuzz target itself, for a moment: long runs are in ``test_fuzz_parts.py``."""

from __future__ import annotations

from fuzz import wayland
from tests.kit.wayland import sessions


def test_recorded_sessions_replay_without_a_fault():
    """Unmutated, every seed goes through to its end on the model compositor."""
    import random

    for session in wayland.seeds():
        count, ended = wayland.one(session, random.Random(1), [], rate=0)
        assert count == len(session.messages), (session.name, ended)


def test_some_mutated_messages():
    ends = wayland.fuzz(seconds=60, messages=20_000, seed=4)
    assert ends["messages"] >= 20_000


def test_the_benchmarks_sessions_are_of_the_present_filter():
    """The compositor's recorded words name ids that this filter gives out.

    Mend with: python -m tests.bench.wayland.record.
    """
    paths = sorted((wayland.ROOT / "tests/corpus/wayland").glob("*.session"))
    assert len(paths) >= 10
    for path in paths:
        fed = sessions.replay(sessions.load(path))
        assert fed.fault is None, (path.name, fed.fault)
