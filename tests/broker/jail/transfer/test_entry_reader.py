"""Entries of a transfer: what passes is a plain tree within its bounds."""

from __future__ import annotations

import io
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import InternalError, PeerError, RefusedError
from broker.core.limits import transfer as limits
from broker.core.transfer.entries import Directory, End, FileEntry, entry_frame
from broker.core.transfer.quota import Quota
from broker.jail.transfer.entry_reader import EntryReader
from shims.files import protocol, sending

MANY = Quota(file_size=1 << 40, size=1 << 40, files=1000)
D, F = Directory, FileEntry


def frame(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def read(data: bytes, quota: Quota = MANY) -> list:
    return list(EntryReader(quota).feed(data))


def told(*entries) -> bytes:
    return b"".join(e if isinstance(e, bytes) else entry_frame(e) for e in entries)


TREE = [
    D(["d"]),
    F(["d", "a b"], 3),
    b"abc",
    F(["d", "empty"], 0),
    F(["x"], 1),
    b"y",
    End(),
]


def test_a_tree_passes_as_it_is():
    reader = EntryReader(MANY)
    assert list(reader.feed(told(*TREE))) == TREE
    assert (reader.size, reader.files, reader.ended) == (4, 4, True)


@given(st.lists(st.integers(1, 40), max_size=60))
def test_how_it_is_cut_into_pieces_changes_nothing(sizes):
    data, out, reader = told(*TREE), [], EntryReader(MANY)
    for size in [*sizes, len(data)]:
        out += list(reader.feed(data[:size]))
        data = data[size:]
    assert told(*out) == told(*TREE)
    assert reader.ended


def test_the_guests_program_says_the_same(tmp_path):
    """Two implementations, one format."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a b").write_bytes(b"abc")
    (tmp_path / "d" / "empty").touch()
    (tmp_path / "x").write_bytes(b"y")
    walk = sending.Walk([str(tmp_path / "d"), str(tmp_path / "x")])
    out = io.BytesIO()
    sending.write_entries(walk, out)
    assert read(out.getvalue()) == TREE
    assert (protocol.FRAME_BYTES, protocol.DEPTH) == (
        limits.TRANSFER_FRAME_BYTES,
        limits.TRANSFER_DEPTH,
    )


@pytest.mark.parametrize(
    "path", [["a"] * (limits.TRANSFER_DEPTH + 1), [], [""], ["x" * 256]]
)
def test_paths_have_a_form(path):
    with pytest.raises((PeerError, RefusedError)):
        read(frame(json.dumps({"type": "dir", "path": path}).encode()))


@pytest.mark.parametrize("name", ["..", "/", "a/b", "/etc", "a\n", "\u202e", ".", "-x"])
def test_names_are_those_of_the_allow_list(name):
    for entry in (D([name]), F([name], 0)):
        with pytest.raises(RefusedError):
            read(told(entry))
    with pytest.raises(RefusedError):
        read(told(D(["d"]), F(["d", name], 0)))


def test_an_entry_needs_its_directory_and_comes_once():
    with pytest.raises(PeerError, match="precedes its directory"):
        read(told(F(["d", "x"], 0)))
    with pytest.raises(PeerError, match="precedes its directory"):
        read(told(F(["d"], 0), F(["d", "x"], 0)))
    with pytest.raises(PeerError, match="same name"):
        read(told(F(["d"], 0), D(["d"])))


def test_nothing_follows_the_end():
    with pytest.raises(PeerError, match="after the end"):
        read(told(End(), End()))


def test_sizes_are_bounded_before_a_byte_of_them_comes():
    quota = Quota(file_size=10, size=15, files=10)
    assert read(told(F(["a"], 10)), quota) == [F(["a"], 10)]
    with pytest.raises(RefusedError, match="larger than 10"):
        read(told(F(["a"], 11)), quota)
    with pytest.raises(RefusedError, match="larger than 15"):
        read(told(F(["a"], 10), bytes(10), F(["b"], 6)), quota)
    with pytest.raises(PeerError):
        read(told(F(["a"], -1)))


def test_no_more_is_passed_on_than_the_file_has():
    reader = EntryReader(MANY)
    data = told(F(["x"], 3))
    assert list(reader.feed(data)) == [F(["x"], 3)]
    reader.skip(2)
    assert reader.left == 1
    with pytest.raises(InternalError):
        reader.skip(2)
    reader.skip(1)
    assert list(reader.feed(told(End()))) == [End()]


def test_files_and_directories_are_counted():
    quota = Quota(file_size=10, size=10, files=2)
    assert len(read(told(D(["a"]), D(["b"])), quota)) == 2
    with pytest.raises(RefusedError, match="more than 2"):
        read(told(D(["a"]), D(["b"]), D(["c"])), quota)


def test_a_single_file_is_one_file():
    quota = Quota(file_size=10, size=10, files=100, single=True)
    assert len(read(told(F(["a"], 0), End()), quota)) == 2
    with pytest.raises(RefusedError, match="more than one file"):
        read(told(F(["a"], 0), F(["b"], 0)), quota)
    with pytest.raises(RefusedError):
        read(told(D(["a"])), quota)


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"[]",
        b"{}",
        b'{"type":"link","path":["a"],"to":"/"}',
        b'{"type":"file","path":["a"]}',
        b'{"type":"file","path":["a"],"size":1e3}',
        b'{"type":"file","path":["a"],"size":1,"mode":2048}',
        b'{"type":"dir","path":"a"}',
        b'{"type":"dir","path":["\\ud800"]}',
        b"[" * 60000,
    ],
    ids=repr,
)
def test_a_malformed_entry_ends_the_transfer(body):
    with pytest.raises(PeerError):
        read(frame(body))


def test_lengths_of_entries_are_bounded():
    for size in (0, limits.TRANSFER_FRAME_BYTES + 1):
        with pytest.raises(PeerError, match="bytes"):
            read(struct.pack("<I", size))


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail_otherwise(data):
    try:
        read(data)
    except (PeerError, RefusedError):
        return
