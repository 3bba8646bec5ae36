"""The guest's end of display streams without sockets: tables, regions, places."""

from __future__ import annotations

import random
import re

import pytest

from broker.core.limits import waypipe as waypipe_limits
from broker.jail.wayland.protocol.tables import INTERFACES
from broker.jail.wayland.waypipe.blocks import BlockKind
from broker.jail.wayland.waypipe.header import read_header
from shims.wayland import client_objects, stream_blocks
from shims.wayland.arena_places import (
    CHUNK_BYTES,
    ROWS,
    WAIT_BYTES,
    ArenaMemory,
    ArenaPlaces,
)
from shims.wayland.drawn_pixels import BOXES, add


def test_its_blocks_are_the_workers():
    kinds = {kind.name: int(kind) for kind in BlockKind}
    own = {n: v for n, v in vars(stream_blocks).items() if n in kinds}
    assert own == {name: kinds[name] for name in own}
    assert len(own) == 13
    assert CHUNK_BYTES == waypipe_limits.WAYPIPE_ARENA_FILL_BYTES
    assert ROWS == waypipe_limits.WAYPIPE_ARENA_ROWS
    assert stream_blocks.FILL_BYTES + 16 <= waypipe_limits.WAYPIPE_BLOCK_BYTES
    assert stream_blocks.MESSAGES_BYTES == waypipe_limits.WAYPIPE_MESSAGES_BYTES
    assert waypipe_limits.WAYPIPE_UNACKNOWLEDGED_BYTES + 2 * CHUNK_BYTES < WAIT_BYTES
    assert read_header(stream_blocks.HEADER).arena


def test_its_requests_with_descriptors_are_all_that_there_are():
    """Another interface that passes one would have to be known here.

    Memory of the GPU's is never offered by waypipe (``test_gpu_buffers.py``).
    """
    found = {
        (interface, opcode)
        for interface, (requests, _) in INTERFACES.items()
        for opcode, request in enumerate(requests)
        if "h" in request.split()[2:] and interface != "zwp_linux_buffer_params_v1"
    }
    assert found == client_objects._WITH_DESCRIPTOR
    for (interface, opcode), made in client_objects._MAKES.items():
        request = INTERFACES[interface][0][opcode]
        assert re.search(rf" n:{made}( |$)", request), request
    for device, offer in client_objects._OFFERS.items():
        assert INTERFACES[device][1][0] == f"data_offer 1 n:{offer}"


@pytest.mark.parametrize("seed", range(50))
def test_a_region_has_all_that_was_added_and_few_boxes(seed):
    chance = random.Random(seed)
    region, points = [], []
    for _ in range(30):
        x, y = chance.randrange(100), chance.randrange(100)
        box = (x, y, x + chance.randrange(20), y + chance.randrange(20))
        region = add(region, box)
        if box[0] < box[2] and box[1] < box[3]:
            points += [(x, y), (box[2] - 1, box[3] - 1)]
        assert len(region) <= BOXES
        for px, py in points:
            inside = [b for b in region if b[0] <= px < b[2] and b[1] <= py < b[3]]
            assert len(inside) == 1


def test_a_place_is_used_again_once_the_host_has_read_it():
    memory = ArenaMemory(memoryview(bytearray(3 * CHUNK_BYTES)), base=4096)
    first, other = ArenaPlaces(memory), ArenaPlaces(memory)
    bases = []
    for number in range(1, 4):
        assert len(first.room(CHUNK_BYTES)) == CHUNK_BYTES
        bases.append(first.named(CHUNK_BYTES, number))
    assert sorted(bases) == [4096, 4096 + CHUNK_BYTES, 4096 + 2 * CHUNK_BYTES]
    assert first.room(1) is None
    assert other.room(1) is None
    first.acknowledged(1)
    assert other.room(10) is not None
    assert other.named(10, 1) == bases[0]
    assert first.room(1) is None
    first.acknowledged(3)
    assert first.room(CHUNK_BYTES) is not None
    first.close()
    other.close()
    assert sorted(memory.free) == [0, 1, 2]


def test_the_newest_chunk_is_used_again_first():
    """So a guest that draws little touches little memory."""
    memory = ArenaMemory(memoryview(bytearray(8 * CHUNK_BYTES)))
    places, used = ArenaPlaces(memory), set()
    for number in range(1, 100):
        places.room(CHUNK_BYTES)
        used.add(places.named(CHUNK_BYTES, number))
        places.acknowledged(number)
    assert len(used) == 1


def test_a_pipe_without_bytes_is_no_block():
    data = bytearray(stream_blocks.block(stream_blocks.CLOSE, b"abcd") + b"\1\0")
    assert list(stream_blocks.take_blocks(data)) == [(stream_blocks.CLOSE, b"abcd")]
    assert data == b"\1\0"
    with pytest.raises(ValueError, match="0 bytes"):
        list(stream_blocks.take_blocks(bytearray(4)))
