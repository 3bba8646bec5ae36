"""Attack: an exchange that is given up at some moment of it takes its channel along.

A sandbox that goes away, a deadline and a user's stop all cancel the work for it;
the next exchange, mostly another sandbox's or the one that ends the machine, must succeed.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import socket

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.host.devices.devices_client import DeviceClient
from broker.host.vmm.qmp import Qmp
from broker.ipc.devices import messages
from broker.wire import fdpass
from tests.kit.eventually import eventually
from tests.kit.given_up import given_up


async def _ends(run):
    with pytest.raises(UpstreamError):
        await run()


async def _answer_commands(stream):
    """QEMU's side of its monitor: each whole line gets an answer."""
    buffer = b""
    async for data in stream:
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            answer = {"return": {}, "id": json.loads(line)["id"]}
            await stream.send_all(json.dumps(answer).encode() + b"\n")


@pytest.mark.parametrize("passed", [0, 1])
async def test_qemus_monitor_outlives_a_command_that_is_given_up(passed):
    """Closed, a machine could be neither asked nor ended but by SIGKILL."""
    for moment in itertools.count(1):
        ours, theirs = (
            trio.SocketStream(trio.socket.from_stdlib_socket(end))
            for end in socket.socketpair()
        )
        qmp = Qmp(ours)
        async with theirs, trio.open_nursery() as nursery:
            nursery.start_soon(_ends, qmp.run)
            nursery.start_soon(_answer_commands, theirs)
            fds = tuple([0] * passed)
            cut = await given_up(
                lambda q=qmp, f=fds: q.execute("add-fd", fds=f), moment
            )
            assert await qmp.execute("query-status") == {}
            nursery.cancel_scope.cancel()
        if not cut:
            break


async def test_half_of_a_command_is_given_up_while_qemu_does_not_read():
    """Its socket is full: the rest of the line comes before the next command."""
    ends = socket.socketpair()
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours, theirs = (
        trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in ends
    )
    qmp = Qmp(ours)
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(_ends, qmp.run)
        long = {"text": "x" * (1 << 20)}
        for moment in (3, 1):  # the first is in its line, the second waits for it
            assert await given_up(lambda a=long: qmp.execute("echo", a), moment)
        nursery.start_soon(_answer_commands, theirs)
        assert await qmp.execute("query-status") == {}
        nursery.cancel_scope.cancel()


async def _serve_devices(conn, released, cut):
    """vitrail-devices; who asks for a device is given up as it comes."""
    while True:
        await trio.lowlevel.wait_readable(conn)
        request = messages.decode_request(fdpass.receive(conn, 1 << 16, 1).data)
        if isinstance(request, messages.Attach):
            attached = messages.Attached(request.id, "a1")
            fdpass.send(conn, messages.encode(attached), (0,))
            cut.cancel()
        else:
            released.append(request.attachment)
            fdpass.send(conn, messages.encode(messages.DeviceDone(request.id)))


async def test_a_device_that_comes_as_its_task_is_given_up_is_taken_back():
    """The answer and the end are in one turn of the loop, which runs them in any order."""
    for _ in range(30):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        released: list[str] = []
        client = DeviceClient(ours, changed=lambda: None, ended=lambda _a, _r: None)
        before = len(os.listdir("/proc/self/fd"))
        with theirs:
            for end in (ours, theirs):
                end.setblocking(False)
            async with trio.open_nursery() as nursery:
                cut = trio.CancelScope()
                nursery.start_soon(_ends, client.run)
                nursery.start_soon(_serve_devices, theirs, released, cut)
                with cut:
                    fd = (await client.node(1, "work", "lease"))[1]
                    os.close(fd)
                    released.append("a1")  # the caller's now
                await eventually(lambda gone=released: gone == ["a1"])
                assert len(os.listdir("/proc/self/fd")) == before
                nursery.cancel_scope.cancel()


async def test_a_device_for_which_there_is_no_descriptor_is_given_back_alone():
    """Its sender had the connection ended, and so took every device back."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    released: list[str] = []
    client = DeviceClient(ours, changed=lambda: None, ended=lambda _a, _r: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ends, client.run)
            nursery.start_soon(_serve_devices, theirs, released, trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked()
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                with pytest.raises(UpstreamError, match="without a device node"):
                    await client.node(1, "work", "lease")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await eventually(lambda: released == ["a1"])
            await client.detach("another")
            nursery.cancel_scope.cancel()
