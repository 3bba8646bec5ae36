"""A machine's vsock outlives every end of a connection: vhost-device-vsock 0.3, emulated.

Alone it panics when a connection is given up before the guest has accepted it, and
tells a guest nothing of one that was closed with unread bytes (``_fairpoll.c``).
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.helpers.process.spawn import PIPE, spawn
from broker.host.vmm.vsock_backend import HELPER, hybrid_environment
from broker.net.addresses import HybridEndpoint
from broker.net.endpoints import connect
from tests.kit.eventually import eventually
from tests.kit.vm.machines import alive, machine, require_vm
from tests.kit.vm.tinyguest import shell_listener
from tests.kit.wayland.compositor import short_directory

_PORT = 7100
_FLOOD_PORT = 6600
_SIOCOUTQ = 0x5411
_FLOODS = 4
_READER = """
import os
while os.read(0, 1 << 16):
    os.write(1, b".")
"""


@pytest.fixture
def directory():
    require_vm()
    if not hybrid_environment():
        pytest.skip("what mends vhost-device-vsock was not built; run 'make setup'")
    with short_directory() as path:
        yield path


class Running:
    """A tiny guest that echoes what connects to its port."""

    def __init__(self, vm, accept, listener):
        self.vm = vm
        self.accept = accept
        self.shell = None
        self.listener = listener
        self.endpoint = HybridEndpoint(vm.uds, _PORT)

    async def boots(self):
        """Wait for its shell, and until it accepts connections."""
        self.shell = await self.accept()
        echo = f"vsockl {_PORT} /bin/busybox cat >/dev/null 2>&1 &\n"
        await self.shell.stream.send_all(echo.encode())

        async def listens():
            with suppress(UpstreamError):
                (await connect(self.endpoint)).close()
                return True

        await eventually(listens, deadline=60)

    def descriptors(self):
        (helper,) = [p.pid for p in self.vm.processes if p.role == HELPER]
        return len(os.listdir(f"/proc/{helper}/fd"))

    async def echoes(self):
        """Check both directions: a new connection to the guest, and its shell."""
        with trio.fail_after(60):
            conn = trio.SocketStream(
                trio.socket.from_stdlib_socket(
                    await connect(self.endpoint, deadline=50)
                )
            )
            async with conn:
                await conn.send_all(b"hello")
                assert await conn.receive_some(5) == b"hello"
            assert (await self.shell.run("echo still"))[1] == "still\n"
        assert len(alive(self.vm)) == len(self.vm.processes)

    async def flood(self):
        """Have the guest send without end; return the connection."""
        await self.shell.stream.send_all(
            b"vsockx 2 %d /bin/busybox yes >/dev/null 2>&1 &\n" % _FLOOD_PORT
        )
        with trio.fail_after(60):
            conn, _ = await self.listener.accept()
        return conn

    async def floods_end(self):
        """Wait until the guest's programs know that nobody reads."""

        async def none():
            _, output = await self.shell.run("pidof yes; echo -n .")
            return output == "."

        await eventually(none, deadline=60)


@asynccontextmanager
async def running(directory):
    async with machine(directory) as vm, shell_listener(vm.uds) as accept:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(f"{vm.uds}_{_FLOOD_PORT}")
            listener.listen(16)
            await vm.cont()
            guest = Running(vm, accept, listener)
            await guest.boots()
            yield guest


def unread(sock):
    """Bytes that the other end has not read yet."""
    data = fcntl.ioctl(sock, _SIOCOUTQ, bytes(4))
    return struct.unpack("i", data)[0]


async def give_up(endpoint, *, read):
    """Ask for the guest's port, and close before the guest has answered.

    ``read``: not before the VMM's process has read that.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(endpoint.path))
        sock.send(f"CONNECT {endpoint.port}\n".encode())
        if read:
            await eventually(lambda: unread(sock) == 0)


@asynccontextmanager
async def stopped(vm, method):
    """The machine stands still meanwhile."""
    if method == "SIGSTOP":
        os.kill(vm.vmm.pid, signal.SIGSTOP)
    else:
        await vm.qmp.execute("stop")
    try:
        yield
    finally:
        if method == "SIGSTOP":
            os.kill(vm.vmm.pid, signal.SIGCONT)
        else:
            await vm.qmp.execute("cont")


@pytest.mark.parametrize("method", ["SIGSTOP", "QMP"])
async def test_vsock_lives_after_connections_given_up_in_a_pause(directory, method):
    async with running(directory) as guest:
        await guest.echoes()
        count = guest.descriptors()
        async with stopped(guest.vm, method):
            for _ in range(3):
                await give_up(guest.endpoint, read=method == "SIGSTOP")
        await guest.echoes()
        await eventually(lambda: guest.descriptors() <= count)


@pytest.mark.parametrize("end", ["cut", "killed"])
async def test_guest_notices_the_end_of_a_full_stream(directory, end):
    """A revoke closes streams with unread bytes; a broker's death, ones that it reads."""
    async with running(directory) as guest:
        await guest.echoes()
        count = guest.descriptors()
        for _ in range(_FLOODS):
            with await guest.flood() as conn:
                if end == "cut":
                    await conn.recv(1)
                else:
                    await read_until_killed(conn)
        await guest.floods_end()
        await guest.echoes()
        await eventually(lambda: guest.descriptors() <= count)


async def read_until_killed(conn):
    """Give a connection to a process that reads it, and kill that in the middle."""
    fd = os.dup(conn.fileno())
    os.set_blocking(fd, True)
    reader = spawn([sys.executable, "-c", _READER], stdin=fd, stdout=PIPE)
    os.close(fd)
    conn.close()
    with trio.fail_after(60):
        assert await trio.to_thread.run_sync(reader.popen.stdout.read, 1)
    reader.kill()
    await reader.wait()
    reader.popen.stdout.close()


@pytest.mark.slow
async def test_vsock_lives_after_many_stops_in_full_flow(directory):
    """QEMU takes the queues back while the guest sends and connections come and go."""
    async with running(directory) as guest:
        with await guest.flood() as conn:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_all, conn)
                for _ in range(20):
                    async with stopped(guest.vm, "QMP"):
                        await give_up(guest.endpoint, read=False)
                    await give_up(guest.endpoint, read=True)
                nursery.cancel_scope.cancel()
        await guest.floods_end()
        await guest.echoes()


async def read_all(conn):
    while await conn.recv(1 << 16):
        pass
