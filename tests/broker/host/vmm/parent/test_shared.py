"""The memory that machines share: no process can change it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.host.vmm.parent.parent_files import MEMORY, STATE, ParentStore
from broker.host.vmm.parent.shared import SharedMemories, seal_memory
from tests.kit.eventually import eventually

SIZE = 1 << 20
FALLOC_PUNCH_HOLE_KEEP_SIZE = 3
WORDS = b"the kernel's text"
NOW = 1e12
"""Far in the future, so that no parent is too old."""


def published(root, key="k", now=NOW, words=WORDS):
    store = ParentStore(root)
    with store.new() as room:
        with (room / MEMORY).open("wb") as file:
            file.truncate(SIZE)
            file.seek(4096 * 3)
            file.write(words)
        (room / STATE).write_bytes(b"state")
        return store.publish(room, "web", key, now)


@pytest.fixture(name="sealed")
def _sealed(tmp_path):
    memory = seal_memory(published(tmp_path), SIZE)
    yield memory
    os.close(memory)


def content(memory):
    return os.pread(memory, SIZE, 0)


def punch(fd):
    libc = ctypes.CDLL(None, use_errno=True)
    offset = ctypes.c_int64
    if libc.fallocate(fd, FALLOC_PUNCH_HOLE_KEEP_SIZE, offset(0), offset(SIZE)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


ATTACKS = {
    "write": lambda fd: os.pwrite(fd, b"x", 0),
    "shrink": lambda fd: os.ftruncate(fd, SIZE // 2),
    "grow": lambda fd: os.ftruncate(fd, SIZE * 2),
    "punch": punch,
    "map": lambda fd: mmap.mmap(fd, SIZE),
}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_process_can_change_it(sealed, attack, again):
    """Not by its descriptor, nor by one that it opens by the descriptor's name."""
    before = content(sealed)
    assert WORDS in before
    fd = os.open(f"/proc/self/fd/{sealed}", os.O_RDWR) if again else os.dup(sealed)
    try:
        with pytest.raises(OSError) as caught:
            ATTACKS[attack](fd)
        assert caught.value.errno == errno.EPERM
    finally:
        os.close(fd)
    assert content(sealed) == before


def test_a_machine_writes_into_pages_of_its_own(sealed):
    before = content(sealed)
    with mmap.mmap(sealed, SIZE, flags=mmap.MAP_PRIVATE) as one:
        one[:] = b"x" * SIZE
        with mmap.mmap(sealed, SIZE, flags=mmap.MAP_PRIVATE) as two:
            assert two[:] == before
    assert content(sealed) == before


@pytest.mark.parametrize("size", [SIZE - 4096, SIZE + 4096])
def test_memory_of_another_size_is_refused(tmp_path, size):
    parent = published(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(UpstreamError, match="size"):
        seal_memory(parent, size)
    assert set(os.listdir("/proc/self/fd")) == before


async def test_one_memory_serves_all_machines_of_a_parent(tmp_path):
    async with trio.open_nursery() as nursery:
        memories = SharedMemories(nursery)
        parent = published(tmp_path)
        one = await memories.open("web", parent, SIZE)
        two = await memories.open("web", parent, SIZE)
        assert os.fstat(one).st_ino == os.fstat(two).st_ino
        # Another parent of this record: another memory.
        newer = published(tmp_path, now=NOW + 1, words=b"newer")
        three = await memories.open("web", newer, SIZE)
        assert os.fstat(three).st_ino != os.fstat(one).st_ino
        assert b"newer" in content(three)
        assert WORDS in content(one), "what runs keeps its own"
        with pytest.raises(UpstreamError, match="replaced"):
            await memories.open("web", parent, SIZE)
        for fd in (one, two, three):
            os.close(fd)
        memories.close()
        nursery.cancel_scope.cancel()
    assert not held()


def held():
    names = (os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds())
    return [name for name in names if "vitrail-parent" in name]


def open_fds():
    with os.scandir("/proc/self/fd") as found:
        names = [entry.name for entry in found]
    return [name for name in names if os.path.lexists(f"/proc/self/fd/{name}")]


async def test_memory_is_let_go_when_its_parent_is_too_old(tmp_path):
    async with trio.open_nursery() as nursery:
        memories = SharedMemories(nursery)
        os.close(await memories.open("web", published(tmp_path, now=1.0), SIZE))
        assert await eventually(lambda: not held())


async def test_starts_at_once_make_one_memory(tmp_path):
    async with trio.open_nursery() as nursery:
        memories = SharedMemories(nursery)
        parent = published(tmp_path)
        found = []

        async def start():
            found.append(await memories.open("web", parent, SIZE))

        async with trio.open_nursery() as starts:
            for _ in range(5):
                starts.start_soon(start)
        assert len({os.fstat(fd).st_ino for fd in found}) == 1
        for fd in found:
            os.close(fd)
        memories.close()
        nursery.cancel_scope.cancel()
