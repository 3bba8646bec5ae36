"""Content is accepted in sealed files only."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from broker.core.errors import PeerError
from broker.core.limits import clipboard as limits
from broker.ipc import sealed_memfd


@pytest.fixture
def descriptors():
    made: list[int] = []
    yield made
    for fd in made:
        os.close(fd)


async def test_content_is_read_back_unchanged(descriptors):
    parts = [b"a" * (limits.CLIPBOARD_READ_BYTES + 1), b"", b"bc"]
    fd = sealed_memfd.sealed(parts)
    descriptors.append(fd)
    whole = b"".join(parts)
    assert await sealed_memfd.take(fd, len(whole)) == whole
    assert b"".join(sealed_memfd.pieces(fd, len(parts[0]), 2)) == b"bc"


async def test_content_is_in_memory_once_while_it_is_read(descriptors):
    """In the supervisor, which has the copied content of all sandboxes."""
    size = 32_000_000
    descriptors.append(sealed_memfd.sealed([b"a" * size]))
    tracemalloc.start()
    try:
        content = await sealed_memfd.take(descriptors[0], size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(content) == size
    assert peak < size * 5 // 4


async def test_it_cannot_be_changed(descriptors):
    fd = sealed_memfd.sealed([b"abc"])
    descriptors.append(fd)
    for change in (
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.ftruncate(fd, 2),
        lambda: os.ftruncate(fd, 4),
    ):
        with pytest.raises(PermissionError):
            change()


@pytest.mark.parametrize("size", [2, 4])
async def test_its_size_is_the_announced_one(descriptors, size):
    descriptors.append(sealed_memfd.sealed([b"abc"]))
    with pytest.raises(PeerError, match="the announced size"):
        await sealed_memfd.take(descriptors[0], size)


async def test_a_file_that_can_change_is_refused(descriptors):
    fd = sealed_memfd.new_file()
    descriptors.append(fd)
    sealed_memfd.append(fd, b"abc", 0)
    with pytest.raises(PeerError, match="not sealed"):
        await sealed_memfd.take(fd, 3)


async def test_a_pipe_or_a_file_on_disk_is_refused(descriptors, tmp_path):
    descriptors += os.pipe()
    (tmp_path / "file").write_bytes(b"abc")
    descriptors.append(os.open(tmp_path / "file", os.O_RDWR))
    for fd in descriptors:
        with pytest.raises(PeerError, match=r"not in memory|not sealed"):
            await sealed_memfd.take(fd, 3)
