"""What a stream's connection lets wait, and sends, at its limits."""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from time import perf_counter

import pytest
import trio

from broker.core.errors import PeerError
from broker.core.limits import wayland as limits
from broker.core.limits import waypipe as waypipe_limits
from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.wayland.waypipe.blocks import BlockKind
from broker.jail.wayland.waypipe.channel import PipeSource, SentFile
from broker.jail.worker.pipes import PipeWriter
from broker.jail.worker.readiness import ReadyTasks
from broker.jail.worker.wayland.waypipe_connection import StreamConnection, _Sink
from broker.jail.worker.wayland.waypipe_memory import StreamMachine
from tests.kit.waypipe import wire_bytes as w


@pytest.fixture
def connection():
    ours, theirs = socket.socketpair()
    up, compositor = socket.socketpair()
    with ours, theirs, up, compositor:
        made = StreamConnection(
            ours, up, WindowRules("work"), Sandbox("work"), StreamMachine()
        )
        yield made
        made.channel.close()
        made.core.close()


def memfd(size: int) -> int:
    fd = os.memfd_create("keymap", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


@pytest.mark.parametrize("more", [0, 1])
def test_bytes_for_a_slow_reader_are_counted(more):
    """Those that it has taken do not count."""
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        sink = _Sink(write)
        half = waypipe_limits.WAYPIPE_PIPE_QUEUE_BYTES // 2
        piece = half - waypipe_limits.WAYPIPE_PIPE_PIECE_BYTES
        assert sink.put(bytes(piece))
        assert sink.put(bytes(piece + more)) is not bool(more)
        assert sink.size == (half if more else 2 * half)
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("size", [0, 1])
def test_small_pieces_for_a_slow_reader_are_counted(size):
    """Each is an object and a place in the queue, which a guest pays 8 bytes for."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        sink = _Sink(write)
        most = waypipe_limits.WAYPIPE_PIPE_QUEUE_BYTES
        while sink.put(bytes(size)) and len(sink.waiting) < most:
            pass
        assert len(sink.waiting) < most // 32
        writer = PipeWriter(write)
        while sink.waiting:
            with suppress(BlockingIOError):
                sink.advance(writer)
            with suppress(BlockingIOError):
                os.read(read, 1 << 16)
        assert sink.size == 0, "all of it is given back"
        writer.close()
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("more", [0, 1])
def test_a_file_of_the_compositor_has_a_size_that_is_sent(connection, more):
    fd = memfd(waypipe_limits.WAYPIPE_SENT_FILE_BYTES + more)
    try:
        if more:
            with pytest.raises(ValueError, match="too large"):
                connection._sendable(fd)
        else:
            sent = connection._sendable(fd)
            assert isinstance(sent, SentFile)
            assert len(sent.data) == waypipe_limits.WAYPIPE_SENT_FILE_BYTES
    finally:
        os.close(fd)


@pytest.mark.parametrize("more", [0, 1])
def test_pipes_of_ours_count_as_the_sandboxs_do(connection, more):
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        for _ in range(waypipe_limits.WAYPIPE_PIPES - 1 + more):
            connection.channel.send_messages(w.message(9, 1, bytes(8)), [write])
        if more:
            with pytest.raises(ValueError, match="too many pipes"):
                connection._sendable(write)
        else:
            assert connection._sendable(write) == write
    finally:
        os.close(read)
        os.close(write)


def test_received_bytes_are_read_without_waiting(connection):
    """And nothing, or the end, is told apart from it."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(0)
        connection._stream = ours
        assert connection._read() is None
        with theirs:
            theirs.sendall(w.header())
            assert connection._read() == len(w.header())
            assert connection.channel.begin()
        assert connection._read() == 0


@pytest.fixture
def begun(connection, monkeypatch):
    """A connection whose stream has begun, and the sandbox's end of it.

    A turn is long, so that none ends because the machine is slow.
    """
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_TURN_SECONDS", 60.0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        theirs.setblocking(False)
        connection._stream = ours
        connection.begin_with(w.header())
        assert connection.channel.begin()
        connection._began = perf_counter()
        yield connection, theirs


MORE = w.diff(1, w.span(0, 2, bytes(8)))
DIFFS = w.open_file(1, 4096) + MORE * 3


async def test_a_picture_is_worked_through_in_steps(begun):
    """No task has a turn for it, wherever it is cut."""
    it, sandbox = begun
    assert it._step() is ReadyTasks.NONE
    for at in range(0, len(DIFFS), 7):
        sandbox.send(DIFFS[at : at + 7])
        assert it._step() is ReadyTasks.NONE
    assert it.channel.files.spans == 3
    assert it.work > 0


async def test_a_step_reads_nothing_while_too_much_waits(begun):
    it, sandbox = begun
    with suppress(BlockingIOError):
        while True:
            it._server.send(bytes(65536))
    sandbox.send(DIFFS)
    it.core.up.add(bytes(limits.WAYLAND_QUEUE_BYTES - len(it.core.up.data)))
    assert it._step() is ReadyTasks.NONE  # at the limit, not beyond it
    assert it.channel.blocks == 4
    sandbox.send(MORE)
    it.core.up.add(bytes(4))
    assert it._step() is ReadyTasks.MINE
    assert it.channel.blocks == 4
    with trio.move_on_after(0.05) as patience:
        await it._catch_up()
    assert patience.cancelled_caught, "its task waits, too"


async def test_a_step_ends_after_its_time_and_leaves_the_rest(begun, monkeypatch):
    it, sandbox = begun
    monkeypatch.setattr(waypipe_limits, "WAYPIPE_TURN_SECONDS", -1.0)
    sandbox.send(DIFFS)
    assert it._step() is ReadyTasks.MINE
    assert it.channel.blocks == 1
    await it._catch_up()
    assert it.channel.blocks == 4


async def test_spans_that_come_too_fast_are_paid_for_by_the_task(begun, monkeypatch):
    it, sandbox = begun
    monkeypatch.setattr(it.channel, "pause", lambda now: 0.001)
    sandbox.send(DIFFS)
    assert it._step() is ReadyTasks.MINE
    before = trio.current_time()
    await it._catch_up()
    assert trio.current_time() - before >= 0.001
    assert it.core.sandbox.refused["spans"] == 1


async def test_what_takes_a_task_is_left_to_it(begun):
    """A pipe to be carried; the descriptor is in no other hand."""
    it, sandbox = begun
    sandbox.send(w.pipe(BlockKind.OPEN_IR_PIPE, 2) + DIFFS)
    assert it._step() is ReadyTasks.MINE
    left = it._left
    assert isinstance(left, PipeSource)
    async with trio.open_nursery() as it._pipes:
        await it._catch_up()
        it._pipes.cancel_scope.cancel()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(left.fd)


async def test_messages_of_a_step_that_end_the_application_are_said_by_its_task(begun):
    it, sandbox = begun
    sandbox.send(w.protocol(w.message(77, 0)))
    assert it._step() is ReadyTasks.MINE
    await it._catch_up()
    assert it.core.fault is not None
    assert it._over.is_set()
    assert it._step() is ReadyTasks.MINE, "and nothing more is read"


async def test_the_end_and_a_bad_block_are_no_steps_fault(begun):
    it, sandbox = begun
    sandbox.send(struct.pack("<I", 5))
    with pytest.raises(PeerError):
        it._step()
    sandbox.shutdown(socket.SHUT_WR)
    assert it._step() is ReadyTasks.MINE
    assert it._over.is_set()
