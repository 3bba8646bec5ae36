"""Pools of a decoded stream: their owners, sizes and files."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct

import pytest

from broker.core.errors import InternalError, PeerError
from broker.core.limits import waypipe as waypipe_limits
from broker.jail.wayland.waypipe.files import RemoteFiles
from broker.jail.wayland.waypipe.ids import RemoteIds
from broker.jail.worker.wayland.waypipe_memory import ArenaFile, StreamMachine
from tests.kit.waypipe.guest_end import arena


@pytest.fixture
def machine():
    it = StreamMachine()
    yield it
    assert it.touched == 0


def closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        return error.errno == errno.EBADF
    return False


def test_a_pipe_is_no_pool_and_is_given_back(machine):
    reading, writing = machine.pipe()
    with pytest.raises(ValueError, match="not a file of this stream"):
        machine.admit_pool(writing, 4096)
    assert closed(writing)
    os.close(reading)


@pytest.mark.parametrize("more", [0, 1])
def test_a_pool_is_no_larger_than_its_file(machine, more):
    file = machine.file(4096)
    if more:
        with pytest.raises(ValueError, match="has 4096 bytes, but 4097 were declared"):
            machine.admit_pool(file, 4096 + more)
        assert file.closed
    else:
        machine.admit_pool(file, 4096).close()


def test_pixels_of_a_pool_are_read_while_the_stream_has_its_file(machine):
    file = machine.file(4096)
    pool = machine.admit_pool(file, 4096)
    file.view[5:8] = b"now"
    assert pool.read(5, 3) == b"now"
    file.close()
    with pytest.raises(ValueError, match="closed"):
        pool.read(5, 3)
    pool.close()


def test_a_pool_grows_only_as_its_file_has_grown(machine):
    file = machine.file(4096)
    pool = machine.admit_pool(file, 4096)
    with pytest.raises(ValueError, match="has not grown"):
        pool.grow(8192)
    file.view[:] = b"x" * 4096
    file.grow(8192)
    pool.grow(8192)
    assert bytes(file.view) == b"x" * 4096 + bytes(4096)
    pool.close()


def test_what_the_compositor_gets_can_neither_shrink_nor_be_taken_back(machine):
    file = machine.file(4096)
    pool = machine.admit_pool(file, 4096)
    theirs = pool.export()
    file.view[:4] = b"seen"
    for change in (lambda: os.ftruncate(theirs, 0), lambda: fcntl.fcntl(theirs, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)):  # fmt: skip
        with pytest.raises(PermissionError):
            change()
    pool.close()
    assert os.pread(theirs, 4, 0) == b"seen"
    os.close(theirs)


def test_nothing_is_written_or_handed_on_when_a_pool_is_over(machine):
    file = machine.file(4096)
    machine.admit_pool(file, 4096).close()
    assert file.closed
    assert len(file.view) == 0
    with pytest.raises((OSError, ValueError)):
        file.export()
    file.give_up()  # once more does nothing


@pytest.mark.parametrize("more", [0, 1])
def test_memory_behind_files_is_counted_once_and_bounded(machine, monkeypatch, more):
    page = 4096
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_TOUCHED_BYTES", 2 * page)
    file, other = machine.file(1 << 20), machine.file(1 << 20)
    file.view[:1] = b"x"
    file.account()
    file.account()
    assert machine.touched == page
    for number in range(1 + more):
        other.view[number * page : number * page + 1] = b"x"
    if more:
        with pytest.raises(ValueError, match="the windows of this sandbox use"):
            other.account()
    else:
        other.account()
        assert machine.touched == 2 * page
    file.give_up()
    other.give_up()


@pytest.mark.parametrize("more", [0, 1])
def test_holes_that_are_shown_are_counted(machine, monkeypatch, more):
    """The compositor's reading makes pages of them, of our memory."""
    size = 4 << 20
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_TOUCHED_BYTES", size)
    file, other = machine.file(size), machine.file(size)
    pool = machine.admit_pool(file, size)
    pool.refresh(0, size)
    assert machine.touched == size
    pool.refresh(0, size)  # again costs nothing
    shown = machine.admit_pool(other, size)
    if more:
        with pytest.raises(ValueError, match="the windows of this sandbox use"):
            shown.refresh(size - 4096, 4096)
    assert machine.touched == size
    seen = pool.export()
    with mmap.mmap(seen, size) as view:
        assert view[:] == bytes(size)
    file.account()
    assert machine.touched == size, "reading has added nothing"
    os.close(seen)
    pool.close()
    shown.close()
    assert machine.touched == 0


def test_a_file_without_bytes_takes_none(machine):
    """No byte at its beginning is a valid fill: not our mistake, so no fault."""
    files = RemoteFiles(machine, RemoteIds())
    files.open(memoryview(struct.pack("<iI", 1, 0)))
    files.fill(memoryview(struct.pack("<iII", 1, 0, 0)))
    files.diff(memoryview(struct.pack("<iII", 1, 0, 0)))
    with pytest.raises(PeerError, match="invalid fill of bytes 0 to 1"):
        files.fill(memoryview(struct.pack("<iII", 1, 0, 1) + b"x"))
    files.close()


def test_an_arena_is_read_as_it_is_and_never_made_larger():
    with arena(1 << 20) as fd:
        os.pwrite(fd, b"pixels", 4096)
        mine = ArenaFile(os.dup(fd))
        blocks = os.fstat(fd).st_blocks
        first, second, hole = bytearray(3), bytearray(3), bytearray(b"x" * 8192)
        mine.read([memoryview(first), memoryview(second)], 4096)
        mine.read([memoryview(hole)], mine.size - 8192)
        assert (bytes(first), bytes(second)) == (b"pix", b"els")
        assert not any(hole)
        # A hole that is read through a mapping would be memory from then on.
        assert os.fstat(fd).st_blocks == blocks
        with pytest.raises(ValueError, match="truncated"):
            mine.read([memoryview(hole)], mine.size - 8191)
        mine.close()
        mine.close()
        with pytest.raises(ValueError, match="descriptor"):
            mine.read([memoryview(hole)], 0)


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK])
def test_a_file_of_changing_size_is_no_arena(seals):
    fd = os.memfd_create("x", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(InternalError, match="not sealed"):
        ArenaFile(fd)
    assert closed(fd)
