"""Replies of a VMM's API: accepted ones, and those that end the connection."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.vmm.monitors.http import ReplyReader, VmmReply, VmmRequest, encode

NO_CONTENT = (
    b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"
)
BODY = b'{"fault_message":"no"}'
REFUSED = b"HTTP/1.1 400 \r\nContent-Length: 22\r\n\r\n" + BODY


def read(data, size=None):
    """Feed it in pieces of this size, or whole."""
    reader = ReplyReader()
    size = size or max(1, len(data))
    for at in range(0, len(data), size):
        reply = reader.feed(data[at : at + size])
        if reply is not None:
            assert at + size >= len(data), "the rest was not looked at"
            return reply
    return None


def test_a_request_has_its_body_and_its_length():
    made = encode(VmmRequest("PUT", "/vsock", {"guest_cid": 3}))
    head, _, body = made.partition(b"\r\n\r\n")
    assert body == b'{"guest_cid":3}'
    assert head.splitlines()[0] == b"PUT /vsock HTTP/1.1"
    assert f"Content-Length: {len(body)}".encode() in head.splitlines()


def test_a_request_without_a_body_has_no_length():
    made = encode(VmmRequest("GET", "/"))
    assert made.startswith(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    assert b"Content" not in made


@pytest.mark.parametrize("size", [None, 1, 7])
def test_replies_are_read_in_pieces(size):
    assert read(NO_CONTENT, size) == VmmReply(204)
    assert read(REFUSED, size) == VmmReply(400, BODY)
    assert read(REFUSED[:-1], size) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"SSH-2.0-x\r\n\r\n", "no HTTP status"),
        (b"HTTP/2 200 OK\r\n\r\n", "no HTTP status"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "no HTTP status"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "no HTTP status"),
        (b"HTTP/1.1 600 \r\n\r\n", "no HTTP status"),
        (b"HTTP/1.1 200 \x1b[31m\r\n\r\n", "no HTTP status"),
        (b"\r\n\r\n", "no HTTP status"),
        (b"HTTP/1.1 200 \r\nno header\r\n\r\n", "an invalid header"),
        (b"HTTP/1.1 200 \r\nX: \x00\r\n\r\n", "an invalid header"),
        (b"HTTP/1.1 200 \r\nX: a\n b: c\r\n\r\n", "an invalid header"),
        (b"HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n", "an invalid Content-Length"),
        (b"HTTP/1.1 200 \r\nContent-Length: \r\n\r\n", "an invalid Content-Length"),
        (b"HTTP/1.1 200 \r\nContent-Length: 1e3\r\n\r\n", "an invalid Content-Length"),
        (
            b"HTTP/1.1 200 \r\ncontent-length: 1\r\nContent-Length: 1\r\n\r\nx",
            "an invalid",
        ),
        (b"HTTP/1.1 200 \r\nContent-Length: 9999999\r\n\r\n", "more than 65536"),
        (
            b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            "Transfer-Encoding",
        ),
        (NO_CONTENT + b"x", "after the body"),
        (REFUSED + b"x", "after the body"),
        (b"HTTP/1.1 200 \r\n" + b"X: y\r\n" * 33 + b"\r\n", "more than 32 headers"),
    ],
)
def test_a_malformed_reply_ends_the_connection(data, why):
    with pytest.raises(UpstreamError, match=why):
        read(data)


def test_a_head_without_an_end_is_not_kept():
    with pytest.raises(UpstreamError, match="more than 65536 bytes"):
        read(b"X: y\r\n".ljust(limits.VMM_REPLY_BYTES + 1000, b"z"), 1000)


def test_the_largest_reply_is_taken():
    head = b"HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n"
    size = limits.VMM_REPLY_BYTES - len(head % 60000)
    assert read(head % size + b"x" * size, 4096) == VmmReply(200, b"x" * size)


def test_a_body_is_shown_without_control_characters():
    assert "\x1b" not in VmmReply(400, b"\x1b[31mred").text()
    assert len(VmmReply(400, b"x" * 60000).text()) < 400


@given(st.binary(max_size=300), st.integers(1, 40))
@example(NO_CONTENT, 3)
@example(REFUSED, 5)
def test_whatever_comes_is_a_reply_or_an_upstream_error(data, size):
    """And it does not depend on how the bytes were cut."""

    def outcome(pieces):
        try:
            return read(data, pieces)
        except (UpstreamError, AssertionError) as error:
            return type(error)

    if outcome(size) is not AssertionError:
        whole = outcome(None)
        assert whole == outcome(size) or whole is UpstreamError
