"""A waypipe client that was taken over, and the directory that it may write to.

Under Podman its jail has the sandbox's display directory writable.  A symbolic
link in the place of its socket must not lead the broker to another program.
"""

from __future__ import annotations

import os
import socket
from contextlib import closing
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.net.endpoints import UnixEndpoint, connect
from broker.viewer.sandboxes.waypipe import connect_client
from broker.viewer.waypipe.client import open_place
from tests.kit.wayland.compositor import short_directory


@pytest.fixture
def place():
    """The directory, the client's socket, and one of the person's."""
    with (
        short_directory() as base,
        socket.socket(socket.AF_UNIX) as client,
        socket.socket(socket.AF_UNIX) as person,
    ):
        client.bind(str(base / "waypipe.sock"))
        person.bind(str(base / "control"))
        for listener in (client, person):
            listener.listen()
            listener.settimeout(0)
        yield base, client, person


async def test_a_link_in_place_of_the_socket_leads_nowhere(place):
    base, client, person = place
    path = base / "waypipe.sock"
    with closing(open_place(path)) as pinned:
        path.unlink()
        path.symlink_to(base / "control")
        ours = await connect(UnixEndpoint(pinned.path))
        ours.close()
        conn, _ = client.accept()  # the opened socket is the one that is connected to
        conn.close()
        with pytest.raises(BlockingIOError):
            person.accept()
    with pytest.raises(UpstreamError, match="not a socket"):
        open_place(path)


async def test_a_listener_outside_of_the_jail_is_not_the_client(place):
    """The process that listens there must be in a pid namespace of its own."""
    base, client, _ = place
    with closing(open_place(base / "waypipe.sock")) as pinned:
        fake = SimpleNamespace(place=pinned)
        with pytest.raises(UpstreamError, match="not the waypipe client"):
            await connect_client(fake)
        conn, _ = client.accept()
        with conn, trio.fail_after(5):
            assert conn.recv(1) == b"", "and nothing was said to it"


def test_opened_descriptors_are_closed(place):
    base, _, _ = place
    before = len(os.listdir("/proc/self/fd"))
    with closing(open_place(base / "waypipe.sock")):
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before
