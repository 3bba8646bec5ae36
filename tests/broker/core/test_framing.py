"""Framing: chunking never changes the result, lengths are bounded."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.core.framing import HEADER, FrameReader, encode_frame

_LIMIT = 9
_BODIES = [b"a", b"x" * _LIMIT, b"\x00\x00\x00\x00", b"mid", b"\xff"]
_STREAM = b"".join(encode_frame(body, _LIMIT) for body in _BODIES)


def test_a_frame_on_the_wire():
    """Little-endian length, then the bytes."""
    assert encode_frame(b"hello", 5) == b"\x05\x00\x00\x00hello"


@pytest.mark.parametrize("size", [1, _LIMIT - 1, _LIMIT])
def test_sizes_up_to_the_limit(size):
    """1 and N bytes pass in both directions."""
    body = b"x" * size
    assert FrameReader(_LIMIT).feed(encode_frame(body, _LIMIT)) == [body]


@pytest.mark.parametrize("size", [0, _LIMIT + 1])
def test_sizes_beyond_the_limit(size):
    """0 and N + 1 bytes are refused in both directions."""
    with pytest.raises(ValueError, match=f"the frame has {size} bytes"):
        encode_frame(b"x" * size, _LIMIT)
    with pytest.raises(PeerError, match=f"announces {size} bytes"):
        FrameReader(_LIMIT).feed(HEADER.pack(size))


@pytest.mark.parametrize("size", [0, _LIMIT + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_bad_length_is_refused_before_its_body(size):
    """Nothing is waited for, nothing is kept, at whatever place it comes."""
    reader = FrameReader(_LIMIT)
    header = HEADER.pack(size)
    assert reader.feed(encode_frame(b"ok", _LIMIT) + header[:3]) == [b"ok"]
    with pytest.raises(PeerError):
        reader.feed(header[3:])


def test_whole():
    """All at once."""
    assert FrameReader(_LIMIT).feed(_STREAM) == _BODIES


def test_byte_by_byte():
    """One byte at a time."""
    reader = FrameReader(_LIMIT)
    assert [f for byte in _STREAM for f in reader.feed(bytes([byte]))] == _BODIES


@pytest.mark.parametrize("at", range(len(_STREAM) + 1))
def test_every_split(at):
    """Two pieces, cut anywhere."""
    reader = FrameReader(_LIMIT)
    assert reader.feed(_STREAM[:at]) + reader.feed(_STREAM[at:]) == _BODIES


@given(
    st.lists(st.binary(min_size=1, max_size=_LIMIT), max_size=8),
    st.lists(st.integers(0, 120), max_size=12),
)
def test_any_chunking(bodies, cuts):
    """Any frames, cut into any pieces, empty ones too."""
    stream = b"".join(encode_frame(body, _LIMIT) for body in bodies)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = FrameReader(_LIMIT)
    frames = []
    for begin, end in itertools.pairwise(edges):
        frames += reader.feed(stream[begin:end])
        assert len(reader._buffer) < HEADER.size + _LIMIT
    assert frames == bodies
    assert not reader.in_frame


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_any_bytes_give_frames_or_a_peers_error(chunks):
    """Never another exception, and the same whole as in pieces."""

    def read(pieces):
        reader, frames = FrameReader(_LIMIT), []
        try:
            for piece in pieces:
                frames += reader.feed(piece)
        except PeerError as error:
            return None, str(error)
        return frames, reader.in_frame

    whole, pieces = read([b"".join(chunks)]), read(chunks)
    assert whole == pieces


def test_in_frame_from_the_first_byte_to_the_last():
    """The deadline of a frame runs in between, and only there."""
    reader = FrameReader(_LIMIT)
    assert not reader.in_frame
    for byte in _STREAM[:4]:
        reader.feed(bytes([byte]))
        assert reader.in_frame
    reader.feed(_STREAM[4:5])
    assert not reader.in_frame
    reader.feed(_STREAM[5:20])
    assert reader.in_frame
