"""Descriptors in orders to a worker: the file that was meant, however late it is sent.

An order waits while its worker takes none, which a sandbox can arrange.  The number of
a descriptor that is closed meanwhile belongs to the next file that the broker opens,
and that may be another sandbox's.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core.names import SandboxName
from broker.core.streams.wayland_rules import WindowRules
from broker.core.transfer.quota import Quota
from broker.ipc import clipboard, transfer, worker
from broker.viewer.workers.process import Worker, WorkerProcesses
from broker.wire import fdpass
from broker.wire.one_way import MessagePipe, one_way_pair
from broker.wire.packets import pair
from tests.broker.viewer.sandboxes.test_guest import guest
from tests.kit.audit.paper import PaperWorker
from tests.kit.eventually import eventually

DELIVER = transfer.TransferDeliver(
    stream=1, source="work", open=False, quota=Quota(1, 1, 1, name="a")
)


class Deaf:
    """The far end of a worker that takes orders when the test says so."""

    def __init__(self, sock, into):
        self.sock, self.up = sock, MessagePipe(into)
        sock.setblocking(False)

    async def descriptors(self):
        """Take all orders until one with descriptors; these are the caller's."""
        while True:
            with suppress(BlockingIOError):
                while True:
                    got = fdpass.receive(self.sock, 1 << 20, 4)
                    if got.fds:
                        return got.fds
            await wait_all_tasks_blocked()


@asynccontextmanager
async def stuffed():
    """A worker whose channel is full, and its far end."""
    orders, theirs, into = one_way_pair()
    ours, keeper_end = pair()
    half = SimpleNamespace(pid=1)
    forked = WorkerProcesses(half, half, ours, orders)
    mine, far = Worker(SandboxName("a"), forked, WindowRules("a")), Deaf(theirs, into)
    full = trio.Event()

    async def fill():
        while not full.is_set():
            await mine.send(worker.DisplaysOpen(1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        await wait_all_tasks_blocked()
        full.set()
        try:
            yield mine, far
        finally:
            nursery.cancel_scope.cancel()
            orders.close()
            ours.close()
            keeper_end.close()
            theirs.close()
            os.close(into)


def file_of(fd):
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


@pytest.fixture
def another(tmp_path):
    """Opens a file of another sandbox, at the number that is free; closes it."""
    made = []

    def reopen(number):
        path = tmp_path / "another"
        path.write_bytes(b"secret")
        made.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        if made[-1] != number:  # a lower one was free
            os.dup2(made[-1], number)
            made.append(number)

    yield reopen
    fdpass.close_all(made)


async def test_a_delivery_that_is_given_up_while_the_worker_takes_no_orders(
    mock_clock, another
):
    async with stuffed() as (mine, far), trio.open_nursery() as nursery:
        read, write = os.pipe()
        meant = file_of(read)
        nursery.start_soon(mine.send, DELIVER, [read])
        await wait_all_tasks_blocked()
        os.close(read)  # its sender, another sandbox, has hung up
        another(read)
        got = await far.descriptors()
        assert [file_of(fd) for fd in got] == [meant]
        fdpass.close_all(got)
        os.close(write)


async def test_content_that_is_given_up_before_its_file_has_arrived(
    mock_clock, another
):
    """The worker answers a request that it has not got yet: it can count, too."""
    async with stuffed() as (mine, far), trio.open_nursery() as nursery:
        asks = clipboard.ReadType(transfer=7, name="text/plain", max_bytes=4096)
        nursery.start_soon(mine.send, asks)
        await wait_all_tasks_blocked()
        (file,) = (read.fd for read in mine._reads.values())
        meant = file_of(file)
        nursery.start_soon(mine._read)
        said = worker.encode(clipboard.ClipboardData(7, 1))
        nursery.start_soon(far.up.send, said)
        await mine.messages.receive()
        assert not mine._reads
        another(file)
        got = await far.descriptors()
        assert [file_of(fd) for fd in got] == [meant]
        fdpass.close_all(got)
        nursery.cancel_scope.cancel()


async def test_a_delivery_that_is_given_up_while_the_worker_begins(
    tmp_path, another, monkeypatch
):
    got = []

    async def send(_worker, message, fds=()):
        got.extend(file_of(fd) for fd in fds)

    monkeypatch.setattr(PaperWorker, "send", send)
    async with guest(tmp_path) as (mine, workers, _), trio.open_nursery() as nursery:
        workers.may_open = trio.Event()
        read, write = os.pipe()
        meant = file_of(read)
        nursery.start_soon(mine.order, DELIVER, [read])
        await workers.asked.wait()
        os.close(read)
        another(read)
        workers.may_open.set()
        await eventually(lambda: got)
        os.close(write)
        assert got == [meant]
