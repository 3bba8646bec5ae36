"""A forwarded port is on the loopback, where any user of the machine can connect."""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import SimpleNamespace

import msgspec
import pytest
import trio
import trio.testing

from broker.core.errors import RefusedError
from broker.core.limits import network as limits
from broker.ipc.control import api
from broker.ipc.control.method import Exchange
from broker.viewer.calls.tcp_ports import take_port
from broker.viewer.network.forwards import PortForwards
from broker.wire import fdpass
from policy.records.kinds import KINDS
from shims.files import ports as shim
from shims.files.protocol import TransferError
from tests.kit.eventually import eventually
from tests.kit.rulebook import WORK, rulebook
from tests.kit.session import starter_of_orders

RULES = "vitrail.Tcp +80 @adminvm work allow\n"


class Calls:
    """Takes the place of the sandbox's programs; a connection lasts until ``release``."""

    def __init__(self):
        self.begun = self.live = self.most = 0
        self.release = trio.Semaphore(0)
        self.changed = trio.Event()
        self.failure = None

    @asynccontextmanager
    async def served(self, guest, service):
        assert (service.service, service.argument) == ("vitrail.Tcp", "80")
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.begun += 1
        self.live += 1
        self.most = max(self.most, self.live)
        self.changed.set()
        self.changed = trio.Event()
        await self.release.acquire()
        self.live -= 1
        raise RefusedError("over")
        yield

    async def wait(self, number):
        while self.begun < number:
            await self.changed.wait()


@asynccontextmanager
async def forwarded(prepare=""):
    """Yield the local port, the calls, and the log of a forward.

    ``prepare``: what the starter executes first.
    """
    with starter_of_orders(prepare=prepare) as session:
        async with _forwarded(session) as found:
            yield found


@asynccontextmanager
async def _forwarded(session):
    async with rulebook(RULES) as book:
        calls = Calls()
        record = SimpleNamespace(
            host=SimpleNamespace(launch=SimpleNamespace(kind=KINDS["microvm"]))
        )
        guest = SimpleNamespace(lease=WORK, valid_record=lambda: record)
        part = PortForwards(
            decider=book.decider,
            log=book.log,
            calls=calls,
            pump=None,
            session=session,
            named=lambda name: guest,
        )
        begun, items = trio.open_memory_channel(100)

        async def emit(item):
            await begun.send(item)

        request = api.ForwardRequest(sandbox="work", port=80, local=0)
        warrant = session.call("Forward", **msgspec.structs.asdict(request))
        exchange = Exchange(api.Caller(pid=7, uid=1000), True, emit, warrant)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(part.forward, exchange, request))
                item = await items.receive()
                yield (item.address, item.local), calls, book
                nursery.cancel_scope.cancel()


async def connect(address):
    return await trio.open_tcp_stream(*address)


_OTHER_USER = """
from broker.session import loopback_ports
loopback_ports.is_own = lambda *_: False
"""


async def test_a_program_of_another_user_is_not_connected():
    async with forwarded(_OTHER_USER) as (port, calls, book):
        async with await connect(port) as stream:
            with suppress(trio.BrokenResourceError), trio.fail_after(5):
                assert await stream.receive_some() == b""
        # The session child has closed it; the viewer records it after that.
        (refused,) = await eventually(lambda: book.events("stream.refused"))
        assert refused["service"] == "vitrail.Tcp"
        assert calls.begun == 0


_FAILS_FIRST = """
import errno, socket
failures = [errno.EMFILE, errno.ECONNABORTED, errno.ETOOMANYREFS]
accept = socket.socket.accept
def fails_first(self):
    if failures:
        raise OSError(failures.pop(), "it is said")
    return accept(self)
from broker.session import loopback_ports
class Failing(socket.socket):
    accept = fails_first
loopback_ports.socket.socket = Failing
"""


async def test_a_moment_without_descriptors_ends_no_forward():
    async with forwarded(_FAILS_FIRST) as (port, calls, _), await connect(port):
        await calls.wait(1)


async def test_a_moment_without_descriptors_in_the_viewer_ends_no_forward(monkeypatch):
    """The connection of which the kernel could not give it the descriptor is lost."""
    receive, failures = fdpass.receive, [1]

    def fails_first(*args):
        got = receive(*args)
        if got.fds and failures:
            fdpass.close_all(got.fds)
            failures.pop()
            raise fdpass.DescriptorsLostError(
                "it is said", got.data, are_too_many=False
            )
        return got

    async with forwarded() as (port, calls, _):
        monkeypatch.setattr(fdpass, "receive", fails_first)
        async with await connect(port) as lost:
            with suppress(trio.BrokenResourceError):
                assert await lost.receive_some() == b""
        async with await connect(port):
            await calls.wait(1)


async def test_connections_are_bounded():
    """The next one waits until one has ended."""
    async with forwarded() as (port, calls, _):
        streams = [await connect(port) for _ in range(limits.FORWARDED + 1)]
        await calls.wait(limits.FORWARDED)
        await trio.testing.wait_all_tasks_blocked(0.05)
        calls.release.release()
        await calls.wait(limits.FORWARDED + 1)
        assert calls.most == limits.FORWARDED
        for stream in streams:
            await stream.aclose()


async def test_a_connection_that_is_reset_at_once_ends_no_forward():
    """Any user of the machine can make one: it has no address of its far end any more."""
    async with forwarded() as (port, calls, _):
        # No await: the forward accepts it when the reset has come.
        reset = socket.create_connection(port)
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset.close()
        async with await connect(port):
            await calls.wait(1)


async def test_a_connection_that_finds_no_descriptor_ends_no_other():
    async with forwarded() as (port, calls, _), await connect(port):
        await calls.wait(1)
        calls.failure = OSError(errno.EMFILE, "it is said")
        async with await connect(port) as failed:
            assert await failed.receive_some() == b""
        async with await connect(port):
            await calls.wait(2)


@pytest.mark.parametrize("text", ["0", "08", "65536", "+80", "8 0", "\u0668\u0660", ""])
def test_a_port_has_one_spelling(text):
    """A rule for a port is about all calls to it."""
    with pytest.raises(RefusedError, match="is not a port"):
        take_port(text)
    assert take_port("65535") == 65535


@pytest.mark.parametrize("text", ["0", "65536", "\u00b2", "9" * 5000, "x", ""])
def test_a_port_of_the_programs_user_has_five_digits_at_most(text):
    with pytest.raises(TransferError, match="is not a port"):
        shim.take_port(text)
    assert shim.take_port("65535") == 65535
