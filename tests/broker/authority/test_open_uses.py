"""The log has an end of each use, also if the process that would record it died."""

from __future__ import annotations

from broker.authority.channel.open_uses import OpenUses
from broker.core.limits import authority as authority_limits
from broker.ipc.audit import schema

WORK = {"sandbox": "work", "lease": "0" * 16, "generation": 1}


def test_open_uses_are_ended():
    uses = OpenUses()
    uses.take(schema.MicrophoneOn(**WORK))
    uses.take(schema.CameraOn(**WORK))
    uses.take(schema.ScreenOn(**WORK, stream=3))
    uses.take(schema.CameraOff(**WORK, seconds=1.0))
    assert [(end.kind, end.sandbox, end.stream) for end in uses.end()] == [
        ("microphone.off", "work", 0),
        ("screen.off", "work", 3),
    ]
    assert all(0 <= end.seconds < 60 for end in uses.end())


def test_client_has_a_bounded_number_of_open_uses():
    """Attack: a viewer that was taken over records begins without an end."""
    uses = OpenUses()
    for stream in range(authority_limits.AUTHORITY_LEASES + 10):
        uses.take(schema.ScreenOn(**WORK, stream=stream))
    assert len(uses.end()) == authority_limits.AUTHORITY_LEASES
