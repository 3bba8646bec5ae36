"""Steps are called when there is something to read, and trio runs beside them."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise

import pytest
import trio
import trio.testing

from broker.core.limits import wayland as limits
from broker.jail.worker import readiness
from broker.jail.worker.readiness import ReadyTasks, WatchedFile
from tests.kit.eventually import eventually


@pytest.fixture
def pair():
    mine, other = socket.socketpair()
    with mine, other:
        mine.setblocking(False)
        yield mine, other


@contextmanager
def watching(mine, turn=ReadyTasks.NONE):
    """A watch whose step reads, and the bytes that it has read."""
    got = []

    def step() -> ReadyTasks:
        got.append(mine.recv(100))
        return turn

    with WatchedFile(mine, step) as watch:
        yield watch, got


async def test_each_readiness_is_a_step_and_no_turn_of_a_task(pair):
    mine, other = pair
    with watching(mine) as (watch, got):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.left)
            for count in range(1, 21):
                other.send(b"x")
                await eventually(lambda count=count: len(got) == count)
            nursery.cancel_scope.cancel()
    assert got == [b"x"] * 20


async def test_the_task_has_its_turn_when_the_step_says_so(pair):
    mine, other = pair
    with watching(mine, ReadyTasks.MINE) as (watch, got), trio.fail_after(60):
        for count in range(1, 6):
            other.send(b"x")
            await watch.left()
            assert len(got) == count


async def test_nothing_is_read_while_the_task_is_busy(pair):
    mine, other = pair
    with watching(mine, ReadyTasks.MINE) as (watch, got), trio.fail_after(60):
        other.send(b"x")
        await watch.left()
        other.send(b"y")
        for _ in range(20):
            await trio.sleep(0.001)
        assert got == [b"x"]
        await watch.left()
        assert got == [b"x", b"y"]


async def test_what_a_step_raises_is_raised_in_the_task(pair):
    mine, other = pair

    def step() -> ReadyTasks:
        raise LookupError("a mistake")

    with WatchedFile(mine, step) as watch, trio.fail_after(60):
        for _ in range(2):  # and it can be waited for again
            other.send(b"x")
            with pytest.raises(LookupError, match="a mistake"):
                await watch.left()


async def test_a_task_that_a_step_wakes_does_not_wait_for_anything_else(pair):
    mine, other = pair
    event = trio.Event()

    def step() -> ReadyTasks:
        mine.recv(100)
        event.set()
        return ReadyTasks.PERHAPS

    with WatchedFile(mine, step) as watch, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.left)
            await trio.testing.wait_all_tasks_blocked()
            other.send(b"x")
            await event.wait()  # no deadline is near that could have helped
            nursery.cancel_scope.cancel()


async def test_deadlines_are_kept_while_steps_are_called_without_end(pair):
    mine, other = pair

    def step() -> ReadyTasks:
        other.send(mine.recv(100))
        mine.send(b"x")
        other.recv(100)
        return ReadyTasks.NONE

    with WatchedFile(mine, step) as watch, trio.fail_after(60):
        other.send(b"x")
        began = trio.current_time()
        with trio.move_on_after(0.2):
            await watch.left()
        for _ in range(5):
            await trio.sleep(0.02)
        assert trio.current_time() - began >= 0.3


async def test_tasks_go_on_while_steps_are_called_without_end(pair):
    mine, other = pair
    one, two = socket.socketpair()

    def step() -> ReadyTasks:
        other.send(mine.recv(1))  # readable again at once
        return ReadyTasks.NONE

    with one, two, WatchedFile(mine, step) as watch, trio.fail_after(30):
        two.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.left)
            other.send(b"x")
            for _ in range(3):
                # From outside, while every task sleeps: nothing but the
                # descriptor can wake the one that waits for it.
                late = threading.Timer(0.05, one.send, (b"y",))
                late.start()
                await trio.lowlevel.wait_readable(two)
                assert two.recv(10) == b"y"
                late.join()
            nursery.cancel_scope.cancel()


async def test_a_quiet_watch_keeps_deadlines_and_lets_idleness_be_seen(pair):
    mine, _ = pair
    with watching(mine) as (watch, _got), trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.left)
            began = trio.current_time()
            await trio.sleep(0.1)
            assert 0.09 < trio.current_time() - began < 30
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()


async def test_a_watch_and_a_clock_that_jumps(pair, autojump_clock):
    mine, _ = pair
    with watching(mine) as (watch, _got):
        with trio.move_on_after(3600):
            await watch.left()
        assert trio.current_time() >= 3600


async def test_signals_are_served_while_steps_are_called(pair):
    mine, other = pair

    def step() -> ReadyTasks:
        other.send(mine.recv(1))
        return ReadyTasks.NONE

    with (
        WatchedFile(mine, step) as watch,
        trio.fail_after(60),
        trio.open_signal_receiver(signal.SIGUSR1) as signals,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.left)
            other.send(b"x")
            await trio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGUSR1)
            async for number in signals:
                assert number == signal.SIGUSR1
                break
            nursery.cancel_scope.cancel()


async def test_an_end_is_something_to_read(pair):
    mine, other = pair
    with watching(mine, ReadyTasks.MINE) as (watch, got), trio.fail_after(60):
        other.close()
        await watch.left()
        assert got == [b""]


async def test_a_closed_watch_is_not_called_whatever_other_processes_hold(pair):
    mine, other = pair
    beside, further = socket.socketpair()
    # With another one that is watched, as in a worker: else nobody reads events.
    with beside, further, watching(beside), watching(mine) as (watch, got):
        copy = mine.dup()  # as the supervisor has one of each socket
        with copy:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.left)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            watch.close()
            mine.close()
            other.send(b"x")
            for _ in range(20):
                await trio.sleep(0.001)
            assert got == []


async def test_closing_twice_and_waiting_after_it(pair):
    mine, _ = pair
    with watching(mine) as (watch, _got):
        watch.close()
    with pytest.raises(AssertionError, match="closed"):
        await watch.left()


async def test_many_watches_have_their_turns():
    pairs = [socket.socketpair() for _ in range(50)]
    counts = [0] * len(pairs)

    def step_of(number):
        mine, other = pairs[number]

        def step() -> ReadyTasks:
            other.send(mine.recv(1))
            counts[number] += 1
            return ReadyTasks.NONE

        return step

    watches = [WatchedFile(mine, step_of(n)) for n, (mine, _) in enumerate(pairs)]
    async with trio.open_nursery() as nursery:
        for watch in watches:
            nursery.start_soon(watch.left)
        for _, other in pairs:
            other.send(b"x")
        await eventually(lambda: min(counts) > 20)
        nursery.cancel_scope.cancel()
    assert max(counts) < 3 * min(counts) + 50, "one was served more often"
    for watch, sockets in zip(watches, pairs, strict=True):
        watch.close()
        for sock in sockets:
            sock.close()


def _pairs(stack: ExitStack, count: int) -> list[tuple[socket.socket, socket.socket]]:
    made = [socket.socketpair() for _ in range(count)]
    for mine, other in made:
        stack.enter_context(mine)
        stack.enter_context(other)
        mine.setblocking(False)
    return made


async def _order(urgent: list[bool], act, steps: int) -> list[int]:
    """The sockets of the first so many steps, where all have something to read.

    ``act(number, others)`` is what a step does, beside reading.
    """
    order: list[int] = []
    enough = trio.Event()
    with ExitStack() as stack:
        pairs = _pairs(stack, len(urgent))
        others = [other for _, other in pairs]

        def step(number: int) -> ReadyTasks:
            pairs[number][0].recv(100)
            order.append(number)
            act(number, others)
            if len(order) >= steps:
                enough.set()
            return ReadyTasks.PERHAPS

        watches = [
            stack.enter_context(WatchedFile(mine, partial(step, n), urgent=first))
            for n, ((mine, _), first) in enumerate(zip(pairs, urgent, strict=True))
        ]
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for watch in watches:
                    nursery.start_soon(watch.left)
                await trio.testing.wait_all_tasks_blocked()
                for n, other in enumerate(others):
                    if n:
                        other.send(b"x")
                others[0].send(b"x")
                await enough.wait()
                nursery.cancel_scope.cancel()
    return order[:steps]


def _spin() -> None:
    end = time.perf_counter() + 2 * limits.WAYLAND_TURN_SECONDS
    while time.perf_counter() < end:
        pass


async def test_the_compositor_is_read_before_clients():
    order = await _order([False, False, True], lambda _n, _others: None, 3)
    assert order[0] == 2


async def test_the_compositor_is_read_between_clients_that_take_their_time():
    def act(number, others):
        if number:  # a client
            _spin()
            others[0].send(b"y")

    order = await _order([True, False, False, False], act, 6)
    assert order[0] == 0
    clients = [n for n, number in enumerate(order) if number]
    assert all(b - a > 1 for a, b in pairwise(clients)), order


async def test_clients_that_take_their_time_have_equal_parts():
    def act(number, others):
        _spin()
        others[number].send(b"y")

    order = await _order([False] * 4, act, 20)
    assert [order.count(n) for n in range(4)] == [5] * 4, order


class _Rounds(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def after_io_wait(self, _timeout: float) -> None:
        self.count += 1


async def test_tasks_of_clients_have_their_turns_in_rounds_of_their_own():
    """In between all sockets are looked at."""
    rounds, turns = _Rounds(), []

    async def client(name: str) -> None:
        for _ in range(3):
            await readiness.turn()
            turns.append((rounds.count, name))

    trio.lowlevel.add_instrument(rounds)
    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(client, name)
    trio.lowlevel.remove_instrument(rounds)
    assert len({count for count, _ in turns}) == len(turns) == 9
    assert sorted("".join(name for _, name in turns[:3])) == list("abc")
