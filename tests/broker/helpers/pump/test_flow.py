"""One direction, by its states; and which mode it gets."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from broker.core.limits import relay as relay_limits
from broker.helpers.pump import flow
from broker.helpers.pump.flow import FlowDirection, FlowState, choose
from broker.helpers.pump.pool import BufferPool, PipePool
from broker.ipc.pump import RelayMode

UNIX, VSOCK = socket.AF_UNIX, socket.AF_VSOCK


@pytest.mark.parametrize(
    ("mode", "source", "destination", "kernel", "chosen"),
    [
        ("auto", UNIX, UNIX, (6, 1), "splice"),
        ("auto", UNIX, UNIX, (6, 12), "splice"),
        ("auto", VSOCK, UNIX, (6, 4), "copy"),
        ("auto", VSOCK, UNIX, (6, 5), "splice"),
        ("auto", UNIX, VSOCK, (6, 1), "copy"),
        ("auto", UNIX, VSOCK, (7, 0), "splice"),
        ("auto", VSOCK, VSOCK, (6, 1), "copy"),
        ("auto", VSOCK, VSOCK, (6, 12), "copy"),
        ("splice", VSOCK, VSOCK, (6, 1), "splice"),
        ("copy", UNIX, UNIX, (6, 12), "copy"),
    ],
)
def test_auto_chooses_the_cheaper_mode(mode, source, destination, kernel, chosen):
    assert choose(RelayMode(mode), source, destination, kernel) == chosen


class World:
    """A direction between two socket pairs: ``left`` speaks, ``right`` hears."""

    def __init__(self, mode: RelayMode, **options) -> None:
        self.left, self.source = socket.socketpair()
        self.destination, self.right = socket.socketpair()
        for sock in (self.left, self.source, self.destination, self.right):
            sock.setblocking(False)
        self.pipes, self.buffers = PipePool(), BufferPool()
        self.direction = FlowDirection(
            options.pop("source", self.source),
            options.pop("destination", self.destination),
            mode,
            pipes=self.pipes,
            buffers=self.buffers,
            **options,
        )

    def close(self) -> None:
        self.direction.release()
        self.pipes.close()
        for sock in (self.left, self.source, self.destination, self.right):
            sock.close()


@pytest.fixture(params=[RelayMode.SPLICE, RelayMode.COPY])
def world(request):
    world = World(request.param)
    yield world
    world.close()


def drain(sock: socket.socket) -> bytes:
    data = bytearray()
    try:
        while piece := sock.recv(1 << 20):
            data += piece
    except BlockingIOError:
        pass
    return bytes(data)


def test_nothing_there_changes_nothing(world):
    assert world.direction.move() is FlowState.FLOWING
    assert world.direction.count == 0


def test_a_message_passes(world):
    world.left.send(b"hello")
    assert world.direction.move() is FlowState.FLOWING
    assert world.right.recv(100) == b"hello"
    assert (world.direction.count, world.direction.held) == (5, 0)


def test_an_end_passes_after_the_last_byte(world):
    world.left.send(b"bye")
    world.left.shutdown(socket.SHUT_WR)
    assert world.direction.move() is FlowState.FLOWING  # the small fill stops early
    assert world.direction.move() is FlowState.ENDED
    assert drain(world.right) == b"bye"
    assert world.right.recv(1) == b""
    assert world.direction.move() is FlowState.ENDED


def test_blocked_holds_one_fill_and_goes_on(world):
    sent = 0
    for _ in range(20):
        try:
            while True:
                sent += world.left.send(b"x" * 32768)
        except BlockingIOError:
            pass
        if world.direction.move() is FlowState.BLOCKED:
            break
    direction = world.direction
    assert direction.state is FlowState.BLOCKED
    bound = {
        RelayMode.SPLICE: relay_limits.RELAY_PIPE_BYTES,
        RelayMode.COPY: relay_limits.RELAY_COPY_BYTES,
    }[direction.mode]
    assert 0 < direction.held <= bound
    assert direction.move() is FlowState.BLOCKED
    world.left.shutdown(socket.SHUT_WR)
    received = 0
    while direction.state is not FlowState.ENDED:
        received += len(drain(world.right))
        direction.move()
    received += len(drain(world.right))
    assert received == sent == direction.count


def test_one_turn_is_bounded(world, monkeypatch):
    """A stream that always has more waits for its next turn all the same."""
    monkeypatch.setattr(flow, "_ROUNDS", range(2))
    monkeypatch.setattr(flow, "_PIPE", 4096)
    monkeypatch.setattr(flow, "_SMALL", 1024)
    world.buffers.give(memoryview(bytearray(4096)))
    for _ in range(4):
        world.left.send(b"x" * 4096)
    assert world.direction.move() is FlowState.FLOWING
    assert world.direction.count == 2 * 4096


def test_no_reader_is_a_write_failure_that_keeps_the_count(world):
    world.left.send(b"hello")
    world.right.close()
    assert world.direction.move() is FlowState.WRITE_FAILED
    assert world.direction.error == errno.EPIPE
    assert world.direction.count == 0
    assert world.direction.held == 5
    world.direction.release()
    assert len(world.pipes) == 0  # it was dirty


def test_a_reset_is_a_read_failure(world):
    world.source.send(b"never read")
    world.left.close()
    assert world.direction.move() is FlowState.READ_FAILED
    assert world.direction.error == errno.ECONNRESET


class File:
    """Something with a descriptor that is no socket."""

    family = None

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd

    def shutdown(self, how: int) -> None:
        raise OSError(errno.ENOTSOCK, "no socket")


@pytest.fixture
def counter():
    """An eventfd: it can be read and not spliced from (EINVAL)."""
    fd = os.eventfd(7, os.EFD_NONBLOCK)
    yield File(fd)
    os.close(fd)


@pytest.fixture
def log(tmp_path):
    """A file opened for appending: written and not spliced to (splice(2))."""
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield File(fd)
    os.close(fd)


def test_what_cannot_be_spliced_from_is_copied(counter):
    world = World(RelayMode.SPLICE, source=counter)
    assert world.direction.move() is FlowState.FLOWING
    assert world.direction.mode is RelayMode.COPY
    assert world.right.recv(100) == (7).to_bytes(8, "little")
    assert world.direction.error == 0
    world.close()


def test_a_socket_that_refuses_splice_gets_the_bytes_already_read(log, tmp_path):
    world = World(RelayMode.SPLICE, destination=log)
    world.left.send(b"first")
    assert world.direction.move() is FlowState.FLOWING
    assert world.direction.mode is RelayMode.COPY
    world.left.send(b", second")
    assert world.direction.move() is FlowState.FLOWING
    assert (tmp_path / "log").read_bytes() == b"first, second"
    assert world.direction.count == 13
    assert len(world.pipes) == 1  # emptied, so it was kept
    world.close()


@pytest.mark.parametrize("end", ["source", "destination"])
def test_ordered_splice_fails_rather_than_copies(counter, log, end):
    special = counter if end == "source" else log
    world = World(RelayMode.SPLICE, may_fall_back=False, **{end: special})
    world.left.send(b"x")
    failed = FlowState.READ_FAILED if end == "source" else FlowState.WRITE_FAILED
    assert world.direction.move() is failed
    assert world.direction.error == errno.EINVAL
    assert world.direction.mode is RelayMode.SPLICE
    world.close()


@pytest.mark.parametrize(
    ("number", "falls"),
    [(errno.EMFILE, True), (errno.ENFILE, True), (errno.ENOMEM, False)],
)
def test_without_a_pipe(monkeypatch, number, falls):
    world = World(RelayMode.SPLICE)

    def take() -> None:
        raise OSError(number, "no pipe")

    monkeypatch.setattr(world.pipes, "take", take)
    world.left.send(b"hello")
    if falls:
        assert world.direction.move() is FlowState.FLOWING
        assert world.direction.mode is RelayMode.COPY
        assert world.right.recv(10) == b"hello"
    else:
        assert world.direction.move() is FlowState.READ_FAILED
        assert world.direction.error == number
    world.close()


@pytest.mark.parametrize("mode", [RelayMode.SPLICE, RelayMode.COPY])
def test_no_write_is_larger_than_its_bound(mode):
    source, left = socket.socketpair()
    destination, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with source, left, destination, right:
        source.setblocking(False)
        destination.setblocking(False)
        world = World(mode, max_write=2, source=source, destination=destination)
        left.send(b"hello")
        assert world.direction.move() is FlowState.FLOWING
        assert world.direction.mode is mode
        assert [right.recv(10) for _ in range(3)] == [b"he", b"ll", b"o"]
        world.close()


def test_a_bound_on_writes_means_copying_unless_ordered():
    assert choose(RelayMode.AUTO, UNIX, UNIX, (6, 12), 2) is RelayMode.COPY
    assert choose(RelayMode.SPLICE, UNIX, UNIX, (6, 12), 2) is RelayMode.SPLICE
