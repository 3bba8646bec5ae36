"""Sealed records: one record for each message, in order, of one epoch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import RefusedError
from broker.core.framing import HEADER, encode_frame
from broker.core.limits import link as limits
from broker.net.link.sealed_records import TAG_BYTES, SealedRecords
from broker.net.link.wire_types import LinkRefusedError
from tests.kit.link.pair import sessions


def records(seed=0):
    host, viewer = sessions(seed)
    return SealedRecords(host), SealedRecords(viewer)


def refuse(end, data, says):
    with pytest.raises(LinkRefusedError, match=says) as caught:
        end.feed(data)
    assert caught.value.answer == b""
    with pytest.raises(LinkRefusedError, match="after"):
        end.feed(b"")


def test_records_both_ways():
    host, viewer = records()
    for sender, receiver in ((host, viewer), (viewer, host)):
        for body in (b"one", b"x" * limits.LINK_RECORD_BYTES):
            assert receiver.feed(sender.seal(body)) == [body]


def test_a_message_beyond_the_limit_is_not_sealed():
    host, _ = records()
    with pytest.raises(ValueError, match="allowed"):
        host.seal(b"x" * (limits.LINK_RECORD_BYTES + 1))


def test_records_at_n_and_n_plus_1_bytes():
    _, viewer = records()
    size = limits.LINK_RECORD_BYTES + TAG_BYTES
    assert viewer.feed(HEADER.pack(size)) == []
    assert viewer.in_record
    _, viewer = records()
    refuse(viewer, HEADER.pack(size + 1), "announces")


def test_no_nonce_is_used_again():
    host, viewer = records()
    for end in (host._out, viewer._in):
        end._number = limits.LINK_COUNTER - 1
    assert viewer.feed(host.seal(b"last")) == [b"last"]
    with pytest.raises(RefusedError, match="used up"):
        host.seal(b"more")
    refuse(viewer, encode_frame(b"x" * 40, 100), "used up")


@given(st.integers(1, 300))
def test_chunks_do_not_matter(size):
    host, viewer = records()
    bodies = [b"a" * 50, b"b", b"c" * 200]
    data = b"".join(host.seal(body) for body in bodies)
    got = []
    for start in range(0, len(data), size):
        got += viewer.feed(data[start : start + size])
    assert got == bodies


@given(st.binary(min_size=4, max_size=100))
def test_any_bytes_are_no_record(untrusted):
    _, viewer = records()
    try:
        assert viewer.feed(untrusted) == []
    except LinkRefusedError:
        return
    assert viewer.in_record
