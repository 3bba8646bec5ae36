"""Machines that a killed broker has left, whose VMM a guest has taken over.

The next broker has to start, and to lease the others' machines without delay.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.host.part import HostPart
from broker.host.processes.ready import open_stream
from broker.host.vmm.control import (
    CONSOLE_SOCKET,
    QMP_SOCKET,
    GuestEvents,
    connect_qemu,
)
from broker.host.vmm.qmp import Qmp
from broker.net.refused_descriptors import refuse_descriptors
from tests.kit.link.roles import AdoptingLauncher
from tests.kit.wayland.compositor import short_directory

GREETING = b'{"QMP": {}}\n'
PATIENCE_SECONDS = 10


@contextmanager
def _listening(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


@pytest.fixture(name="place")
def _place():
    with short_directory() as path:
        yield path


async def test_monitor_that_greets_and_hangs_up_is_qemus_fault():
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.send(GREETING)
    async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
        with pytest.raises(UpstreamError):
            await Qmp(stream).negotiate()


async def test_console_that_is_gone_is_qemus_fault(place):
    async def serve(listener):
        stream, _ = await trio.socket.from_stdlib_socket(listener).accept()
        with stream:
            await stream.send(GREETING + b'{"return": {}, "id": 0}\n')
            await stream.recv(1000)

    with _listening(place / QMP_SOCKET) as listener:
        listener.settimeout(0)
        (place / CONSOLE_SOCKET).symlink_to("/nowhere")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener)
            with pytest.raises(UpstreamError):
                await connect_qemu(place, GuestEvents(print, print))


async def test_machine_that_is_silent_delays_no_other_lease():
    """Each waits ten seconds and more for its VMM's answers."""
    leased = trio.Event()

    async def admit(sandbox, _record, _machine):
        if sandbox == "bad":
            await leased.wait()
            raise UpstreamError("QEMU did not send the answer to cont")
        leased.set()

    host = SimpleNamespace(role=SimpleNamespace(admit=admit))
    launcher = AdoptingLauncher()
    with trio.fail_after(PATIENCE_SECONDS):
        await HostPart.adopt(host, launcher)
    assert "cannot lease bad again" in launcher.warnings[0]


def _require_refusals():
    with socket.socket(socket.AF_UNIX) as sock:
        if not refuse_descriptors(sock):
            pytest.skip("the kernel has no SO_PASSRIGHTS (Linux 6.16)")


async def _must_refuse(theirs, ours):
    with theirs, ours:
        with pytest.raises(PermissionError):
            socket.send_fds(theirs, [b"x"], [0])
        theirs.send(b"y")
        assert ours.recv(2) == b"y", "the stream goes on"


async def test_monitor_attaches_no_descriptors(place):
    """The last copy of gigabytes of memory, or of a virtual machine of KVM's.

    The broker, which reads the byte, would close it: its thread takes as long as that.
    """
    _require_refusals()
    with _listening(place / QMP_SOCKET) as listener:
        async with await open_stream(place / QMP_SOCKET) as stream:
            theirs, _ = listener.accept()
            await _must_refuse(
                theirs, socket.socket(fileno=os.dup(stream.socket.fileno()))
            )
