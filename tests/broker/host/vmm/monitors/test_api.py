"""The API socket of a VMM: its own, with a deadline."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.helpers.process.identity import identity_of
from broker.host.processes.tracked import Tracked, spawn_helper
from broker.host.vmm.monitors.api import ApiClient
from broker.host.vmm.monitors.http import VmmReply, VmmRequest
from tests.kit.wayland.compositor import short_directory

INFO = VmmRequest("GET", "/")


def myself():
    """This process in the VMM's place."""
    pidfd = os.pidfd_open(os.getpid())
    return Tracked("Firecracker", identity_of(os.getpid(), pidfd), pidfd)


@pytest.fixture
def place():
    with short_directory() as path:
        yield path


@asynccontextmanager
async def served(path, reply):
    """A VMM that sends these bytes to each request; gives the requests."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(4)
    got = []

    async def serve(stream):
        got.append(await stream.receive_some(1000))
        if reply is None:
            await trio.sleep_forever()
        with suppress(trio.BrokenResourceError):  # one that has asked nothing
            await stream.send_all(reply)

    async with trio.open_nursery() as nursery:
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield got
        nursery.cancel_scope.cancel()


async def test_a_reply_is_returned(place):
    vmm = myself()
    async with served(place / "api", b"HTTP/1.1 204 \r\n\r\n") as got:
        client = ApiClient(place / "api", vmm)
        await client.wait_ready()
        assert await client.call(INFO) == VmmReply(204)
        assert got[-1].startswith(b"GET / HTTP/1.1\r\n")
    vmm.close()


async def test_a_silent_vmm_is_given_up(place):
    vmm = myself()
    async with served(place / "api", None):
        with trio.fail_after(30), pytest.raises(UpstreamError, match="did not answer"):
            await ApiClient(place / "api", vmm).call(INFO, deadline=0.2)
    vmm.close()


async def test_one_that_never_accepts_is_not_waited_for_either(place):
    """With a full queue our connection would wait."""
    vmm = myself()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "api"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(place / "api"))
            with (
                trio.fail_after(30),
                pytest.raises(UpstreamError, match="does not accept"),
            ):
                await ApiClient(place / "api", vmm).call(INFO)
    vmm.close()


async def test_the_socket_of_another_process_gets_no_byte(place):
    """A link to it, or one that another process has put there."""
    other = spawn_helper("Firecracker", ["sleep", "1000"])
    try:
        async with served(place / "session", b"HTTP/1.1 204 \r\n\r\n") as got:
            (place / "api").symlink_to(place / "session")
            vmm = myself()
            with pytest.raises((UpstreamError, OSError)) as caught:
                await ApiClient(place / "api", vmm).call(INFO)
            assert "not a socket" in str(caught.value)
            vmm.close()
            with pytest.raises(UpstreamError, match="listens on"):
                await ApiClient(place / "session", other).call(INFO)
            await trio.testing.wait_all_tasks_blocked()
            # The second was accepted by the kernel, and has sent nothing.
            assert b"".join(got) == b""
    finally:
        await other.end(0)
        other.close()


async def test_a_vmm_that_has_ended_is_not_asked(place):
    vmm = spawn_helper("Firecracker", ["true"])
    await vmm.wait()
    with pytest.raises(UpstreamError, match="does not accept connections"):
        await ApiClient(place / "api", vmm).call(INFO)
    with pytest.raises(UpstreamError, match="Firecracker ended before it was ready"):
        await ApiClient(place / "api", vmm).wait_ready()
    vmm.close()
