"""A viewer that was taken over orders programs, and asks about processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from functools import partial

import pytest
import trio

from broker.helpers.fork_command import UNJAILED
from broker.helpers.process.fork_client import ForkServer
from broker.helpers.service_manager import ADDRESS
from broker.ipc.fork_server import (
    ALLOW_UNJAILED,
    FORK_KEEPER,
    ForkKeeper,
    ForkServerKind,
)
from broker.ipc.keeper import CONNECT
from broker.ipc.session.program_orders import ReportState, StartForkServer
from broker.viewer.orders.session_orders import order_server
from broker.viewer.part import measure
from broker.viewer.workers import pool
from tests.kit.session import rows_of, starter_of_orders

_PACKETS = socket.AF_UNIX, socket.SOCK_SEQPACKET


@pytest.fixture
def orders():
    with starter_of_orders() as session:
        yield session


@pytest.fixture
def program_of_the_user():
    """It is no child of the broker's: its parent has gone."""
    argv = ["sh", "-c", "setsid sleep 600 >/dev/null & echo $!"]
    pid = int(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    yield pid
    os.kill(pid, signal.SIGKILL)


async def test_no_process_of_the_user_is_measured(orders, program_of_the_user):
    found = {}
    await measure(orders, rows_of([os.getpid(), program_of_the_user, 1]), found)
    assert list(found) == [os.getpid()]


SLOW = """
import time
from broker.session import broker_programs
honest, asked = broker_programs.figures_of, []
def figures_of(pid):
    asked.append(pid)
    return honest(pid) if len(asked) == 1 else time.sleep(600)
broker_programs.figures_of = figures_of
"""


async def test_a_process_that_is_not_to_be_measured_hides_none_before_it():
    """A worker that was taken over changes its memory without an end."""
    found = {}
    with starter_of_orders(prepare=SLOW) as orders, trio.move_on_after(3):
        await measure(orders, rows_of([os.getpid(), os.getpid(), 1]), found)
    assert list(found) == [os.getpid()]


SHOWN = """
import sys
from broker.session import broker_programs
def command(*words, **options):
    made = honest(*words, **options)
    return ["/bin/sh", "-c", 'echo "$*" >&2', "sh", *made]
honest, broker_programs.command = broker_programs.command, command
"""


@pytest.mark.parametrize(
    "program",
    ["os", "broker.programs.local", "broker.programs.fork_server", "helpers --x", ""],
)
async def test_no_other_program_becomes_a_fork_server(orders, program):
    read, write = os.pipe()
    try:
        order = {"program": program}
        message = await orders.refusal("StartForkServer", order, [read, write])
        assert "the viewer sent an invalid StartForkServer" in message
    finally:
        os.close(read)
        os.close(write)


async def test_a_viewer_permits_no_worker_without_a_jail(orders):
    order = {"program": "workers", "allow_unjailed": True}
    read, write = os.pipe()
    try:
        message = await orders.refusal("StartForkServer", order, [read, write])
        assert "the viewer sent an invalid StartForkServer" in message
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("said", ["mainpid", "ready=1\nMAINPID=1\nFDSTORE", ""])
async def test_the_service_manager_is_told_of_two_states(said, tmp_path):
    path = tmp_path / "notify"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        starter_of_orders({**os.environ, ADDRESS: str(path)}) as orders,
    ):
        manager.bind(str(path))
        manager.setblocking(False)
        refusal = await orders.refusal("ReportState", {"state": said})
        assert "the viewer sent an invalid ReportState" in refusal
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        manager.settimeout(30)
        for state in ("ready", "stopping"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(orders.carry_out, ReportState(state))
                receive = partial(trio.to_thread.run_sync, manager.recv, 100)
                assert await receive() == f"{state.upper()}=1\n".encode()
                assert await receive() == b"BARRIER=1"


@pytest.mark.parametrize("said", ["", "1"])
async def test_the_user_permits_workers_without_a_jail(said):
    """The command line of the fork server that an order becomes."""
    with starter_of_orders({**os.environ, UNJAILED: said}, SHOWN) as orders:
        ours, theirs = socket.socketpair(*_PACKETS)
        read, write = os.pipe()
        with ours, theirs, os.fdopen(read) as shown:
            order = StartForkServer(ForkServerKind.WORKERS)
            async with orders.carrying_out(order, [theirs.fileno(), write]):
                os.close(write)
                words = await trio.to_thread.run_sync(shown.readline)
    assert (ALLOW_UNJAILED in words.split()) == bool(said)


async def test_a_keeper_connects_to_no_service_of_the_user(orders, tmp_path):
    """The viewer names a socket, and reads as a jailed half what the keeper connects."""
    path = tmp_path / "bus"
    server = ForkServer(pool.KEEPERS, partial(order_server, orders))
    with socket.socket(socket.AF_UNIX) as bus, ExitStack() as ours:
        bus.bind(str(path))
        bus.listen()
        pairs = [socket.socketpair(*_PACKETS) for _ in range(2)]
        (supervisor, its), (jailed, other) = pairs
        for sock in (supervisor, its, jailed, other):
            ours.enter_context(sock)
        half = ours.enter_context(subprocess.Popen(["sleep", "600"]))
        ours.callback(half.kill)
        pidfd = os.pidfd_open(half.pid)
        ours.callback(os.close, pidfd)
        order = ForkKeeper(sandbox="web", compositor=str(path), clients=1)
        child = await server.fork(
            FORK_KEEPER, order, [its.fileno(), other.fileno(), pidfd]
        )
        its.close()
        other.close()
        jailed.settimeout(5)
        with suppress(BrokenPipeError):
            jailed.send(CONNECT)
        bus.settimeout(0)
        with suppress(ConnectionResetError, TimeoutError):
            jailed.recv(16)
        with pytest.raises(BlockingIOError):
            bus.accept()
        child.kill()
        await child.wait()
        child.close()
    await server.close()
