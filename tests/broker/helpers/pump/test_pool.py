"""Pipes go round; dirty ones do not."""

from __future__ import annotations

import fcntl
import os

import pytest

from broker.core.limits import relay as relay_limits
from broker.helpers.pump.pool import BufferPool, PipePool


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def pool():
    before = open_fds()
    pool = PipePool()
    yield pool
    pool.close()
    assert open_fds() == before


def test_an_empty_pipe_is_used_again(pool):
    pipe = pool.take()
    pool.give(pipe)
    assert pool.take() is pipe
    pool.give(pipe)


def test_a_dirty_pipe_is_closed_not_kept(pool):
    pipe = pool.take()
    os.write(pipe.write, b"a sandbox's secret")
    pipe.held = 18
    pool.give(pipe)
    assert len(pool) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe.read)
    fresh = pool.take()
    with pytest.raises(BlockingIOError):
        os.read(fresh.read, 1)
    pool.give(fresh)


@pytest.mark.parametrize(("given", "kept"), [(64, 64), (65, 64)])
def test_the_pool_keeps_64(pool, given, kept):
    assert relay_limits.RELAY_PIPES_POOLED == 64
    pipes = [pool.take() for _ in range(given)]
    for pipe in pipes:
        pool.give(pipe)
    assert len(pool) == kept


def test_pipes_neither_block_nor_outlive_exec(pool):
    pipe = pool.take()
    for fd in (pipe.read, pipe.write):
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
    assert fcntl.fcntl(pipe.write, fcntl.F_GETPIPE_SZ) <= relay_limits.RELAY_PIPE_BYTES
    pool.give(pipe)


@pytest.mark.parametrize(("given", "kept"), [(4, 4), (5, 4)])
def test_few_copy_buffers_are_kept(given, kept):
    assert relay_limits.RELAY_COPY_BUFFERS_POOLED == 4
    pool = BufferPool()
    buffers = [pool.take() for _ in range(given)]
    assert {len(buffer) for buffer in buffers} == {relay_limits.RELAY_COPY_BYTES}
    for buffer in buffers:
        pool.give(buffer)
    again = [pool.take() for _ in range(given)]
    same = sum(any(one is other for other in buffers) for one in again)
    assert same == kept
