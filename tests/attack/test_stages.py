"""What holds for each core that reads a client's bytes: hostile ones end one connection."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest

from broker.core.errors import PeerError
from broker.jail.sound import frames
from broker.jail.sound.commands import Command
from tests.kit.sound.talk import Talk as SoundTalk
from tests.kit.stage import Stage, fault_after
from tests.kit.wayland.talk import Talk as WaylandTalk


class Play(NamedTuple):
    """How a stage is built, a request that is answered, and what no client may send."""

    stage: Callable[..., Stage]
    honest: bytes
    hostile: dict[str, bytes]


WAYLAND = Play(
    WaylandTalk,
    struct.pack("=IHHI", 1, 1, 12, 2),  # wl_display.get_registry
    {
        "object": struct.pack("=IHH", 77, 0, 8),
        "opcode": struct.pack("=IHH", 1, 9, 8),
        "size": struct.pack("=IHH", 1, 1, 7),
        "length": struct.pack("=IHH", 1, 1, 8),
    },
)
SOUND = Play(
    SoundTalk,
    frames.command(Command.GET_SERVER_INFO, 7, b""),
    {
        "length": struct.pack(">5I", 1 << 30, 0xFFFFFFFF, 0, 0, 0),
        "empty": frames.command(Command.GET_SERVER_INFO, 7, b"")[:8] + b"\xff" * 12,
    },
)
CASES = [
    pytest.param(play, play.hostile[name], id=f"{kind}-{name}")
    for kind, play in (("wayland", WAYLAND), ("sound", SOUND))
    for name in play.hostile
]


@pytest.mark.parametrize(("play", "hostile"), CASES)
def test_hostile_bytes_end_one_connection_of_the_sandbox(play, hostile):
    bad = play.stage()
    neighbour = play.stage(sandbox=bad.sandbox)
    assert isinstance(fault_after(bad, hostile), PeerError)
    neighbour.raw(play.honest)
    assert neighbour.core.fault is None


@pytest.mark.parametrize(("play", "hostile"), CASES)
def test_a_fault_is_final(play, hostile):
    stage = play.stage()
    fault = fault_after(stage, hostile)
    assert fault is not None
    assert fault_after(stage, play.honest) is fault
    assert fault_after(stage, hostile) is fault


@pytest.mark.parametrize(("play", "hostile"), CASES)
def test_hostile_bytes_end_a_connection_in_pieces_too(play, hostile):
    stage = play.stage()
    for at in range(len(hostile)):
        if stage.core.fault is None:
            fault_after(stage, hostile[at : at + 1])
    assert isinstance(stage.core.fault, PeerError)
