"""Files and pipes as the kernel has them: checks, seals, copies."""

from __future__ import annotations

import mmap
import os
import socket

import pytest

from broker.core import limits
from broker.core.files.tmpfs import filesystem_of
from broker.jail.worker.wayland.files_and_pipes import (
    CopiedFile,
    RealMachine,
    _check,
)
from tests.kit.vm.silent_fuse import ANSWERED, NO_MOUNT, ask_about_silent_file
from tests.kit.wayland.client import memfd


@pytest.fixture
def machine():
    before = set(os.listdir("/proc/self/fd"))
    it = RealMachine()
    yield it
    assert it.copied == 0
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("seal", [True, False])
def test_a_file_is_copied(machine, seal):
    fd = memfd(8192, seal=seal)
    other = os.dup(fd)
    pool = machine.admit_pool(fd, 8192)
    assert isinstance(pool, CopiedFile)
    assert machine.copied == 0
    sent = pool.export()
    assert os.fstat(sent).st_ino != os.fstat(other).st_ino
    os.pwrite(other, b"now", 5000)
    with mmap.mmap(sent, 8192) as seen:
        assert seen[5000:5003] == b"\0\0\0"
        assert pool.keep(4096, 4096) == 0
        pool.refresh(4096, 4096)
        assert seen[5000:5003] == b"now"
        assert machine.copied == 1 << 20
        assert pool.read(5000, 3) == b"now"
        os.ftruncate(other, 4096)
        with pytest.raises(ValueError, match="truncated"):
            pool.refresh(4096, 4096)
        with pytest.raises(ValueError, match="truncated"):
            pool.read(5000, 3)
    os.ftruncate(other, 16384)
    pool.grow(16384)
    with pytest.raises(ValueError, match="not grown"):
        pool.grow(16385)
    pool.close()
    os.close(sent)
    os.close(other)


@pytest.mark.parametrize("extra", [0, 1])
def test_copies_are_bounded(machine, monkeypatch, extra):
    part = 1 << 20
    monkeypatch.setattr(limits, "WAYLAND_COPIED_BYTES", 3 * part)
    fd = memfd(8 * part, seal=False)
    pool = machine.admit_pool(fd, 8 * part)
    pool.keep(0, 3 * part)
    if extra:
        with pytest.raises(ValueError, match="too many"):
            pool.keep(3 * part, 1)
    pool.close()


def test_a_sparse_pool_is_charged_for_its_shown_part(machine, monkeypatch):
    part = 1 << 20
    monkeypatch.setattr(limits, "WAYLAND_COPIED_BYTES_PER_POOL", 8 * part)
    fd = memfd(512 * part, seal=False)
    other = os.dup(fd)
    pool = machine.admit_pool(fd, 512 * part)
    sent = pool.export()
    for at in range(0, 100 * part, part // 2):
        os.pwrite(other, b"x", at)
        given_back = pool.keep(at, part // 2)
        pool.refresh(at, part // 2)
    assert machine.copied == 8 * part
    assert given_back == 92
    assert os.fstat(sent).st_blocks * 512 <= 9 * part
    with mmap.mmap(sent, 512 * part) as seen:
        assert seen[100 * part - part // 2] == ord("x")
        assert seen[0] == 0
    pool.close()
    os.close(sent)
    os.close(other)


def test_what_is_shown_is_never_given_back(machine, monkeypatch):
    """Attack: a compositor that draws a hole again makes memory of it, counted nowhere."""
    part = 1 << 20
    monkeypatch.setattr(limits, "WAYLAND_COPIED_BYTES_PER_POOL", 4 * part)
    fd = memfd(512 * part, seal=False)
    pool = machine.admit_pool(fd, 512 * part)
    pool.keep(0, 6 * part)
    pool.refresh(0, 6 * part)
    sent = pool.export()
    shown = [(0, 6 * part)]
    assert pool.keep(400 * part, 1, shown) == 0
    assert machine.copied == 7 * part
    assert os.fstat(sent).st_blocks * 512 == 6 * part
    assert pool.keep(401 * part, 1) == 4
    assert machine.copied == 4 * part
    pool.close()
    os.close(sent)


def test_refused_descriptors_are_closed(machine):
    for make in (
        lambda: memfd(10),
        lambda: os.open("/etc/passwd", os.O_RDONLY),
        lambda: os.open("/dev/null", os.O_RDWR),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            machine.admit_pool(make(), 4096)


def test_only_pipes_and_sockets_are_written_into(machine):
    read, write = os.pipe()
    one, two = socket.socketpair()
    file = memfd(10)
    with one, two:
        answers = [machine.admit_pipe(fd) for fd in (read, write, one.fileno(), file)]
    assert answers == [True, True, True, False]
    for fd in (read, write, file):
        os.close(fd)
    assert not machine.admit_pipe(file)


def test_tmpfs_is_known_by_its_number(machine):
    fd = memfd(10)
    assert filesystem_of(fd) == 0x01021994
    os.close(fd)
    with pytest.raises(OSError, match="fstatfs"):
        filesystem_of(fd)


def test_paint_is_a_file_of_ours(machine):
    paint = machine.paint()
    paint.grow(4096)
    paint.write(4000, b"abc")
    sent = paint.export()
    assert os.pread(sent, 3, 4000) == b"abc"
    paint.close()
    paint.close()
    os.close(sent)


@pytest.mark.machine
def test_a_file_whose_server_is_silent_holds_nothing_up():
    """FUSE: fstat or fstatfs on it would wait for ever."""
    answer = ask_about_silent_file(_ask)
    if answer == NO_MOUNT:
        pytest.skip("no FUSE mount here, not even in a user namespace")
    assert answer == ANSWERED


def _ask(fd: int) -> None:
    assert not RealMachine().admit_pipe(fd)
    with pytest.raises(ValueError, match="not on tmpfs"):
        _check(fd, 4096)
