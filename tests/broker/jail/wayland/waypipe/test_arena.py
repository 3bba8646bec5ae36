"""Pixels that a sandbox leaves in its arena: one rule of the wire each."""

from __future__ import annotations

import struct

import pytest

from broker.core.errors import PeerError
from broker.core.limits import waypipe as waypipe_limits
from broker.jail.wayland.waypipe.blocks import BlockKind
from broker.jail.wayland.waypipe.channel import WaypipeChannel
from tests.kit.waypipe import wire_bytes as w

SIZE = 4096


class World:
    def __init__(self, header: int = w.ARENA_HEADER, *, arena: bool = True) -> None:
        self.memory = w.Memory()
        self.arena = w.MemoryArena(SIZE)
        self.channel = WaypipeChannel(self.memory, self.arena if arena else None)
        self.feed(w.header(header) + w.open_file(1, 64))

    def feed(self, data: bytes) -> None:
        with self.channel.room() as room:
            room[: len(data)] = data
        self.channel.filled(len(data))
        worked = self.channel.begin()
        while worked:
            worked, _ = self.channel.next()

    @property
    def file(self) -> bytes:
        return bytes(self.memory.files[0].data)

    def refuses(self, data: bytes, match: str) -> None:
        before = self.file
        with pytest.raises(PeerError, match=match):
            self.feed(data)
        self.channel.close()
        assert self.file == before
        assert self.arena.closed


@pytest.fixture
def world():
    return World()


def test_an_end_that_knows_arenas_is_told_how_large_its_own_is(world):
    (told,) = w.blocks(bytes(world.channel.out))
    assert told == (BlockKind.OPEN_ARENA, struct.pack("<Q", SIZE))


@pytest.mark.parametrize(
    ("header", "arena"), [(w.HEADER, True), (w.ARENA_HEADER, False)]
)
def test_no_other_stream_has_one(header, arena):
    world = World(header, arena=arena)
    assert not world.channel.out
    before = world.file
    with pytest.raises(PeerError, match="that was not announced"):
        world.feed(w.arena_fill(1, 0, 0, 8))
    world.channel.close()
    assert world.file == before


def test_rows_are_copied_to_their_places(world):
    world.feed(w.arena_fill(1, 3, 100, width=5, rows=4, stride=16))
    wanted = bytearray(64)
    for row in range(4):
        at, base = 3 + 16 * row, 100 + 5 * row
        wanted[at : at + 5] = world.arena.data[base : base + 5]
    assert world.file == wanted
    assert world.memory.files[0].cost == 1


def test_rows_without_gaps_are_one_copy(world, monkeypatch):
    read = []
    monkeypatch.setattr(world.arena, "read", lambda into, _: read.append(len(into)))
    world.feed(w.arena_fill(1, 0, 0, width=8, rows=8))
    assert read == [1]


def test_the_last_byte_of_file_and_arena_is_reached(world):
    world.feed(w.arena_fill(1, 0, SIZE - 64, 64))
    assert world.file == world.arena.data[-64:]


_LIES = {
    "one byte beyond the arena": (w.arena_fill(1, 0, SIZE - 63, 64), "arena of 4096"),
    "far beyond the arena": (w.arena_fill(1, 0, 0xFFFFFFFF, 64), "arena of 4096"),
    "one byte beyond the file": (w.arena_fill(1, 1, 0, 64), "the file of 64"),
    "rows beyond the file": (w.arena_fill(1, 0, 0, 8, 5, 16), "the file of 64"),
    "far beyond the file": (w.arena_fill(1, 0xFFFFFFFF, 0, 8), "the file of 64"),
    "rows over each other": (w.arena_fill(1, 0, 0, 8, 2, 7), "the stride 7"),
    "no bytes": (w.arena_fill(1, 0, 0, 0, 8, 8), "a copy has 0"),
    "no rows": (w.arena_fill(1, 0, 0, 8, 0), "a copy has 0"),
    "a file that was never opened": (w.arena_fill(2, 0, 0, 8), "never opened"),
    "a file of ours": (w.arena_fill(-1, 0, 0, 8), "never opened"),
    "an arena of its own": (
        w.block(BlockKind.OPEN_ARENA, bytes(8)),
        "only our end has",
    ),
    "half a place": (w.block(BlockKind.ARENA_FILL, bytes(20)), "allowed are 28 to 28"),
}


@pytest.mark.parametrize("case", _LIES)
def test_lies_about_places_end_the_stream(world, case):
    world.refuses(*_LIES[case])


@pytest.mark.parametrize("more", [0, 1])
def test_one_block_has_a_mebibyte_copied_at_most(more):
    size = waypipe_limits.WAYPIPE_ARENA_FILL_BYTES
    world = World()
    world.arena.data, world.arena.size = bytes(size + 1), size + 1
    world.feed(w.open_file(2, size + 1))
    fill = w.arena_fill(2, 0, 0, size + more)
    if more:
        world.refuses(fill, f"1 to {size}")
    else:
        world.feed(fill)


@pytest.mark.parametrize("more", [0, 1])
def test_one_block_has_few_rows_with_gaps(world, more):
    rows = waypipe_limits.WAYPIPE_ARENA_ROWS + more
    world.feed(w.open_file(2, 2 * rows))
    fill = w.arena_fill(2, 0, 0, 1, rows, stride=2)
    if more:
        world.refuses(fill, f"a copy has {rows} rows")
    else:
        world.feed(fill)


def test_rows_without_gaps_may_be_many(world):
    world.feed(w.open_file(2, SIZE) + w.arena_fill(2, 0, 0, 1, SIZE, stride=1))
    assert world.memory.files[1].data == world.arena.data


def test_an_arena_that_cannot_be_read_ends_the_stream(world):
    world.arena.data = world.arena.data[:8]

    def short(_into, _base):
        raise ValueError("the data is truncated")

    world.arena.read = short
    world.refuses(
        w.arena_fill(1, 0, 0, 16), "cannot read the arena: the data is truncated"
    )


def test_copies_for_a_file_that_is_over_are_late_and_not_wrong(world):
    world.memory.files[0].gone = True
    before = world.file
    world.feed(w.arena_fill(1, 0, 0, 16))
    assert world.file == before


def test_copied_bytes_are_acknowledged_like_received_ones(world, monkeypatch):
    """The sender waits for that before it uses a place again."""
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_UNACKNOWLEDGED_BYTES", 100)
    world.channel.out.clear()
    world.feed(w.arena_fill(1, 0, 0, 64) + w.arena_fill(1, 0, 0, 8))
    (told,) = w.blocks(bytes(world.channel.out))
    assert told == (BlockKind.ACK_NBLOCKS, struct.pack("<I", 3))


def test_copies_have_the_pace_of_spans(world):
    size = waypipe_limits.WAYPIPE_ARENA_SPAN_BYTES
    world.feed(w.open_file(2, 4 * size))
    world.arena.data, world.arena.size = bytes(4 * size), 4 * size
    spans = world.channel.files.spans
    world.feed(w.arena_fill(2, 0, 0, 3 * size))
    assert world.channel.files.spans == spans + 4
    world.feed(w.arena_fill(2, 0, 0, 8, rows=16, stride=9))
    assert world.channel.files.spans == spans + 4 + 16
