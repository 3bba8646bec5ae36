"""The part in C by itself: the streams that it keeps and returns, and when."""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import socket
import time

import pytest

from broker.core.limits import relay as relay_limits
from broker.helpers.pump import turns
from broker.helpers.pump.flow import FlowState

Turns = pytest.importorskip(
    "broker.helpers.pump._turns", reason="needs the part in C: gcc and python3-dev"
).Turns


class World:
    """One adopted pair: ``left`` speaks to a, ``right`` to b."""

    def __init__(self) -> None:
        self.left, self.a = socket.socketpair()
        self.b, self.right = socket.socketpair()
        self.epoll = select.epoll()
        for sock in (self.left, self.right):
            sock.setblocking(False)
        made = turns.accelerator(self.epoll.fileno())
        assert made is not None
        self.turns = made
        fds = self.a.fileno(), self.b.fileno()
        assert self.turns.domains(*fds) == (socket.AF_UNIX, socket.AF_UNIX)
        self.turns.adopt(7, *fds)
        self.over: list[tuple[int, int, int]] = []

    def go(self, seconds: float = 0.0):
        _, events, left, over = self.turns.wait(time.monotonic() + seconds)
        self.over += over
        return events, left

    def fill(self) -> int:
        """Send to the left until nothing moves any more; bytes sent."""
        sent = 0
        while True:
            try:
                sent += self.left.send(b"x" * 65536)
            except BlockingIOError:
                before = self.turns.look(self.a.fileno()).ways[0]
                self.go()
                if self.turns.look(self.a.fileno()).ways[0] == before:
                    return sent

    def close(self) -> None:
        for thing in (self.left, self.a, self.b, self.right, self.epoll):
            thing.close()


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def test_bytes_flow_both_ways_and_are_counted(world):
    world.left.send(b"question")
    world.right.send(b"an answer")
    assert world.go() == ([], [])
    assert world.right.recv(100) == b"question"
    assert world.left.recv(100) == b"an answer"
    pair = world.turns.look(world.b.fileno())
    assert [way.count for way in pair.ways] == [8, 9]
    assert [way.source for way in pair.ways] == [world.a.fileno(), world.b.fileno()]
    assert pair.active == pytest.approx(time.monotonic(), abs=5)


def test_an_event_of_another_descriptor_ends_the_wait(world):
    one, other = socket.socketpair()
    with one, other:
        world.epoll.register(one, select.EPOLLIN)
        other.send(b"x")
        world.left.send(b"y")
        events, left = world.go(30)
        assert events == [(one.fileno(), select.EPOLLIN)]
        assert not left
        assert world.right.recv(100) == b"y"


def test_a_full_destination_blocks_and_goes_on_when_it_is_read(world):
    sent = world.fill()
    way = world.turns.look(world.a.fileno()).ways[0]
    assert way.state == FlowState.BLOCKED
    assert 0 < way.held <= relay_limits.RELAY_PIPE_BYTES
    assert way.mask == select.EPOLLONESHOT, "a blocked source must not be awaited"
    got = 0
    while got < sent:
        try:
            got += len(world.right.recv(1 << 20))
        except BlockingIOError:
            world.go(0.01)
    way = world.turns.look(world.a.fileno()).ways[0]
    assert (way.state, way.held, way.count) == (FlowState.FLOWING, 0, sent)


def test_an_end_is_passed_on_and_the_other_side_may_still_answer(world):
    world.left.send(b"last words")
    world.left.shutdown(socket.SHUT_WR)
    while world.turns.look(world.a.fileno()).ways[0].state != FlowState.ENDED:
        assert world.go() == ([], [])
    assert world.right.recv(100) == b"last words"
    assert world.right.recv(100) == b""
    ways = world.turns.look(world.a.fileno()).ways
    assert ways[1].state == FlowState.FLOWING
    assert ways[0].mask == select.EPOLLET, "only its disappearance is awaited"
    world.right.send(b"an answer")
    world.go()
    assert world.left.recv(100) == b"an answer"
    assert not world.over
    world.right.close()
    world.go(5)
    assert world.over == [(7, 10, 9)]
    assert world.left.recv(100) == b""
    for sock in (world.a, world.b):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(sock.detach())


def test_a_side_that_is_gone_ends_the_stream(world):
    world.left.close()
    world.go(5)
    assert world.over == [(7, 0, 0)]
    assert world.right.recv(100) == b""
    for sock in (world.a, world.b):
        sock.detach()


def test_bytes_for_a_side_that_is_gone_are_an_error(world):
    world.left.close()
    world.right.send(b"too late")
    _, (pair,) = world.go(5)
    assert not world.over
    assert [way.state for way in pair.ways] == [
        FlowState.ENDED,
        FlowState.WRITE_FAILED,
    ]
    assert (pair.ways[1].error, pair.ways[1].held) == (errno.EPIPE, 8)


def test_a_socket_without_an_entry_stays_the_callers(world):
    one, two = socket.socketpair()
    with one, two, world.epoll.fromfd(world.epoll.fileno()) as epoll:
        epoll.register(two, select.EPOLLIN)
        with pytest.raises(FileExistsError):
            world.turns.adopt(8, one.fileno(), two.fileno())
        epoll.register(one, select.EPOLLIN)  # its entry was taken away again
        epoll.unregister(one)
        epoll.unregister(two)
        world.turns.adopt(8, one.fileno(), two.fileno())
        world.turns.release(one.fileno())


def test_a_reset_is_given_back_with_its_number(world):
    world.right.send(b"never read")
    world.go()
    world.left.send(b"unread")
    world.left.close()  # with unread bytes: a reset (unix(7))
    left = []
    while not left:
        _, left = world.go(5)
    way = left[0].ways[0]
    assert (way.state, way.error) == (FlowState.READ_FAILED, errno.ECONNRESET)


def test_held_bytes_go_along_in_their_pipe(world):
    world.fill()
    pair = world.turns.release(world.a.fileno())
    way = pair.ways[0]
    read, write = way.pipe
    assert os.read(read, 1 << 20) == b"x" * way.held
    assert pair.ways[1].pipe == (-1, -1)
    os.close(read)
    os.close(write)


def test_no_pipe_to_be_had_is_an_error_of_that_pair(world):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    world.left.send(b"x")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        _, left = world.go(5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert used > 3
    way = left[0].ways[0]
    assert (way.state, way.error, way.held) == (FlowState.READ_FAILED, errno.EMFILE, 0)


def _fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_everything_is_closed_with_it():
    before = _fds()
    world = World()
    world.fill()
    world.close()
    assert _fds() > before, "the pipe of the blocked direction"
    del world.turns
    gc.collect()
    assert _fds() == before


@pytest.mark.parametrize("pair", [(-1, 5), (5, -1), (7, 7)])
def test_only_two_descriptors_can_be_adopted(pair):
    with select.epoll() as epoll, pytest.raises(ValueError, match="descriptors"):
        Turns(epoll.fileno(), 65536, 8, 4, 4).adopt(1, *pair)


def test_a_descriptor_has_one_pair(world):
    with pytest.raises(ValueError, match="new"):
        world.turns.adopt(8, world.a.fileno(), 500)
    with pytest.raises(KeyError):
        world.turns.release(500)


@pytest.mark.parametrize("sizes", [(0, 8, 4, 4), (65536, 0, 4, 4), (65536, 8, 4, -1)])
def test_sizes_must_make_sense(sizes):
    with select.epoll() as epoll, pytest.raises(ValueError, match="positive"):
        Turns(epoll.fileno(), *sizes)


def test_a_person_can_have_it_in_python(monkeypatch):
    assert turns.available()
    monkeypatch.setenv("VITRAIL_RELAY_PYTHON", "1")
    assert not turns.available()
    with select.epoll() as epoll:
        assert turns.accelerator(epoll.fileno()) is None
