"""What a stream may begin with, and what the guest is told otherwise."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.jail.wayland.waypipe.header import read_header
from tests.kit.waypipe.wire_bytes import ARENA_HEADER, HEADER, header


@pytest.mark.parametrize(
    ("word", "version"), [(0x00010984, 16), (0x0001098C, 17), (0x000109FC, 31)]
)
def test_the_headers_of_real_servers(word, version):
    """0.8.4 and 0.9.2; 0.11.2; and one to come."""
    assert read_header(header(word)).version == version


@pytest.mark.parametrize(("word", "arena"), [(HEADER, False), (ARENA_HEADER, True)])
def test_only_our_own_end_knows_of_arenas(word, arena):
    assert read_header(header(word)).arena is arena


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        (HEADER | 1, "reconnect", "--control"),
        (HEADER | 2, "reconnect", "--control"),
        (HEADER & ~4, "GPU", "--no-gpu"),
        (HEADER + (1 << 8), "lz4", "--compress none"),
        (HEADER + (2 << 8), "zstd", "--compress none"),
        (HEADER & ~(7 << 8), "unknown", "--compress none"),
        (HEADER + (1 << 11), "VP9", "--video"),
        (HEADER + (2 << 11), "H.264", "--video"),
        (HEADER + (3 << 11), "AV1", "--video"),
        (HEADER & ~(1 << 7), "not a waypipe", "waypipe"),
        (HEADER | 1 << 31, "not a waypipe", "waypipe"),
        (HEADER & ~(1 << 16), "not a waypipe", "0.8"),
        (int.from_bytes(b"GET ", "little"), "not a waypipe", "waypipe"),
    ],
)
def test_the_refusal_names_the_option(word, message, hint):
    with pytest.raises(PeerError, match=message) as caught:
        read_header(header(word))
    assert hint in (caught.value.hint or "")


@given(st.binary(min_size=16, max_size=16))
def test_any_bytes_are_a_header_or_refused(data):
    try:
        made = read_header(data)
    except PeerError:
        return
    assert made.version >= 16
    (word,) = struct.unpack_from("<I", data)
    assert word & 0b11111100000111 == 0b00100100000100
