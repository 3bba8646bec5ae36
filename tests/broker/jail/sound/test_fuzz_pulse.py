"""The fuzz target's invariants, for a moment: long runs are in ``test_fuzz_parts.py``."""

from __future__ import annotations

from fuzz import pulse
from tests.kit.sound import sessions as sound_sessions


def test_recorded_sessions_pass_unchanged():
    sessions = sound_sessions.all_sessions()
    assert len(sessions) > 20
    for name, session in sessions.items():
        run = pulse.Run(pulse.random.Random(1))
        assert all(run.feed(frame) for frame in session), name
        assert run.server.said
        run.close()


def test_every_command_once():
    run = pulse.Run(pulse.random.Random(2))
    assert all(run.feed(frame) for frame in pulse.spoken())
    run.close()


def test_some_thousand_frames():
    ends = pulse.fuzz(seconds=140, limit=8000, seed=5)
    assert ends["frames"] >= 8000
    assert ends["end: went on"]
