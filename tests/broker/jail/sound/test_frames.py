"""Frames: chunking never changes their meaning."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.core.limits import sound as limits
from broker.jail.sound import frames
from broker.jail.sound.commands import INVALID, Command
from tests.kit.sound.servers import frame


def fed(pieces, limit=1000):
    """The output, with the parts of a frame of samples put together."""
    cutter, out = frames.Cutter(limit), []
    for piece in pieces:
        cutter.push(piece)
        while (got := cutter.next()) is not None:
            if isinstance(got, frames.Samples) and not got.first:
                head, data = out[-1]
                assert head[0] == got.channel
                out[-1] = (head, data + got.data)
            elif isinstance(got, frames.Samples):
                out.append(((got.channel, got.seek, got.offset, got.size), got.data))
            else:
                out.append((None, got.body))
    return out


FRAMES = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=100).map(lambda b: frame(INVALID, b)),
        st.builds(
            frame,
            st.integers(0, INVALID - 1),
            st.binary(min_size=1, max_size=100),
            st.integers(0, 3),
            st.integers(0, (1 << 64) - 1),
        ),
    ),
    max_size=6,
)


@given(FRAMES, st.lists(st.integers(0, 600), max_size=8))
def test_chunking_never_changes_the_result(some, cuts):
    data = b"".join(some)
    places = sorted({min(c, len(data)) for c in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    whole = fed([data])
    assert fed(pieces) == whole == fed([bytes([b]) for b in data])
    assert len(whole) == len(some)


@given(st.binary(max_size=200))
def test_garbage_is_a_peer_error(data):
    try:
        fed([data])
    except PeerError:
        return


@pytest.mark.parametrize(
    ("channel", "flags", "offset"),
    [
        (INVALID, 1, 0),
        (INVALID, 0, 1),
        (INVALID, 0x80000000, 0),
        (0, 4, 0),
        (0, 0x80000000, 0),
        (0, 0xC0000000, 0),
        (0, 0x20000000, 0),
        (0, 0x40000000, 0),
    ],
)
def test_flags_of_shared_memory_are_no_frame(channel, flags, offset):
    with pytest.raises(PeerError):
        fed([frame(channel, b"x", flags, offset)])


@pytest.mark.parametrize("channel", [0, INVALID])
def test_lengths_at_the_limit(channel):
    most = 1000 if channel == INVALID else limits.PULSE_SAMPLES_BYTES

    def head(length: int) -> bytes:
        return struct.pack(">IIQI", length, channel, 0, 0)

    for good in (1, most):
        fed([head(good)])
    for bad in (0, most + 1, INVALID):
        with pytest.raises(PeerError):
            fed([head(bad)])


def test_samples_are_passed_on_before_their_frame_is_whole():
    cutter = frames.Cutter(1000)
    cutter.push(frame(3, bytes(1000))[:50])
    got = cutter.next()
    assert isinstance(got, frames.Samples)
    assert (len(got.data), got.size, got.first) == (30, 1000, True)
    assert cutter.waiting == 0
    assert cutter.next() is None


def test_a_negative_offset():
    (got,) = fed([frame(1, b"abcd", 0, (1 << 64) - 4)])
    assert got[0][2] == -4
    assert frames.samples(1, b"abcd", 0, -4) == frame(1, b"abcd", 0, (1 << 64) - 4)


def test_a_commands_head():
    body = frames.command(Command.STAT, 7)[frames.HEADER.size :]
    assert frames.head(body) == (Command.STAT, 7)
    for bad in (b"", body[:9], b"B" + body[1:], body[:5] + b"B" + body[6:]):
        with pytest.raises(PeerError):
            frames.head(bad)
