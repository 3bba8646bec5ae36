"""Bytes of a file that go from one descriptor to another without being read."""

from __future__ import annotations

import os

import pytest

from broker.core.errors import PeerError, RefusedError
from broker.core.transfer.entries import FileEntry, entry_frame
from broker.core.transfer.quota import Quota
from broker.jail.transfer.entry_reader import EntryReader
from broker.jail.worker.pipes import splice_file

SIZE = 50_000


@pytest.fixture
def pipes():
    ends = [*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)]
    ends += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    yield ends
    for end in ends:
        if end >= 0:
            os.close(end)


def reading(size=SIZE):
    """A reader at the beginning of a file's content."""
    reader = EntryReader(Quota(1 << 20, 1 << 20, 10))
    list(reader.feed(entry_frame(FileEntry(["a"], size))))
    return reader


async def test_no_more_passes_than_the_file_has(pipes):
    source, into, out, target = pipes
    reader = reading()
    os.write(into, b"x" * SIZE + b"the next entry")
    assert await splice_file(reader, source, target, "gone") == SIZE
    assert reader.left == 0
    assert os.read(out, 1 << 20) == b"x" * SIZE
    assert os.read(source, 1 << 20) == b"the next entry"


async def test_a_receiver_that_has_gone_is_reported(pipes):
    source, into, out, target = pipes
    os.write(into, b"x")
    os.close(out)
    pipes[2] = -1
    with pytest.raises(RefusedError, match="receiver cancelled the transfer"):
        await splice_file(reading(), source, target, "gone")


async def test_the_end_of_the_source_is_reported(pipes):
    source, into, _, target = pipes
    os.close(into)
    pipes[1] = -1
    with pytest.raises(PeerError, match="gone"):
        await splice_file(reading(), source, target, "gone")
