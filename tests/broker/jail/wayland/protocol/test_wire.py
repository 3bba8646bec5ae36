"""Bytes: arguments, queues, descriptors at their place."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.jail.wayland.protocol import emit, signatures, wire
from broker.jail.wayland.protocol.wire import Outgoing

BIND = signatures.request("wl_registry", "bind")
TITLE = signatures.request("xdg_toplevel", "set_title")
ACCEPT = signatures.request("wl_data_offer", "accept")


def body(*words: int, tail: bytes = b"") -> bytes:
    return b"".join(w.to_bytes(4, "little") for w in words) + tail


@pytest.mark.parametrize(
    ("message", "data", "why"),
    [
        (TITLE, body(0), "null where none may be"),
        (TITLE, body(1), "the string's bytes are missing"),
        (TITLE, body(2, tail=b"ab\0\0"), "no NUL at the end"),
        (TITLE, body(4, tail=b"a\0b\0"), "a NUL in the middle"),
        (TITLE, body(3, tail=b"\xff\xfe\0\0"), "not UTF-8"),
        (TITLE, body(0xFFFFFFFF, tail=b"a\0\0\0"), "a length beyond the message"),
        (TITLE, body(2, tail=b"a\0\0\0\0\0\0\0"), "bytes left over"),
        (TITLE, body(2, tail=b"a\0"), "padding missing"),
        (TITLE, b"", "nothing at all"),
        (BIND, body(1, 2, tail=b"a\0\0\0"), "arguments missing"),
    ],
)
def test_arguments_that_do_not_fill_the_message_exactly(message, data, why):
    with pytest.raises(ValueError, match=r"\w"):
        wire.decode(message, data, 0, len(data))
    assert why


def test_a_null_string_where_one_may_be():
    assert wire.decode(ACCEPT, body(7, 0), 0, 8) == [7, None]


@given(
    st.integers(0, 2**32 - 1),
    st.text().filter(lambda t: "\0" not in t),
    st.integers(0, 9),
    st.integers(1, 99),
)
def test_written_messages_read_back_the_same(name, text, version, new_id):
    data = emit.bind(5, name, text.encode(), version, new_id)
    oid, opcode, size = wire.HEADER.unpack_from(data)
    assert (oid, opcode, size) == (5, 0, len(data))
    assert wire.decode(BIND, data, 8, size) == [name, text.encode(), version, new_id]


@given(st.binary(max_size=80))
def test_no_bytes_make_anything_but_a_value_error(data):
    for message in (BIND, TITLE, ACCEPT, signatures.event("xdg_toplevel", "configure")):
        with contextlib.suppress(ValueError):
            wire.decode(message, data, 0, len(data))


MESSAGES = [
    message
    for interface in signatures.INTERFACES
    for message in (
        *signatures.requests_of(interface),
        *signatures.events_of(interface),
    )
]


def _answer(read) -> object:
    try:
        return read()
    except ValueError:
        return ValueError


@given(st.sampled_from(MESSAGES), st.binary(max_size=64), st.integers(0, 3))
def test_a_message_s_own_reader_reads_as_the_general_one(message, data, start):
    """Also where lengths are small, so that strings and arrays really come."""
    data = bytes(b if n % 4 == 0 or b < 128 else 0 for n, b in enumerate(data))
    expected = _answer(lambda: wire.decode(message, data, start, len(data)))
    assert _answer(lambda: wire.reader(message)(data, start, len(data))) == expected


@given(st.sampled_from(MESSAGES), st.data())
def test_a_message_s_own_writer_writes_as_the_general_one(message, data):
    made = {
        "i": st.integers(-(2**31), 2**31 - 1),
        "f": st.integers(-(2**31), 2**31 - 1),
        "u": st.integers(0, 2**32 - 1),
        "o": st.integers(0, 2**32 - 1),
        "n": st.integers(0, 2**32 - 1),
        "s": st.none() | st.binary(max_size=9),
        "a": st.binary(max_size=9),
    }
    args = [data.draw(made[kind]) for kind in message.kinds]
    expected = wire.encode(7, message.opcode, message.kinds, args)
    assert emit.packer(message)(7, *args) == expected
    got = wire.reader(message)(expected, 8, len(expected)) if _whole(args) else None
    assert got is None or [a for a in got if a is not None] == [
        a for a in args if a is not None
    ]


def _whole(args: list[object]) -> bool:
    """Whether the written value may be read: text, and no null."""
    return all(not isinstance(a, bytes) and a is not None for a in args)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=20),
    st.integers(1, 9),
)
def test_a_descriptor_goes_with_the_first_byte_of_its_message(messages, take):
    queue, expected, at = Outgoing(), {}, 0
    for n, (words, with_fd) in enumerate(messages):
        queue.add(bytes(4 * words), [n] if with_fd else [])
        if with_fd:
            expected[n] = at
        at += 4 * words
    position, closed = 0, []
    while queue.data:
        view, fds = queue.front()
        with view:
            count = min(take, len(view))
            for fd in fds:
                assert expected[fd] == position
        closed += queue.sent(count)
        position += count
    assert closed == list(expected)
    assert queue.fd_count == 0
    assert position == at
