"""Sandboxes that together use up the compositor's descriptors, seen by a neighbour."""

from __future__ import annotations

import resource
import socket
import struct
from contextlib import ExitStack, asynccontextmanager, suppress

from broker.core import limits
from broker.core.streams.wayland_rules import WindowRules
from tests.kit.eventually import eventually
from tests.kit.wayland.client import Client, GoneError, ServerError
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.stand import CONFIG, jailed
from tests.kit.workers import open_workers

FILES = 320
"""Of the compositor; two sandboxes may have 256 connections."""


@asynccontextmanager
async def three():
    async with (
        desktop(config_extra=CONFIG) as comp,
        open_workers() as workers,
        jailed(comp, workers, WindowRules("red", color=0xC01010)) as red,
        jailed(comp, workers, WindowRules("blue", color=0x1010C0)) as blue,
        jailed(comp, workers, WindowRules("work", color=0x10C010)) as work,
    ):
        _, hard = resource.prlimit(compositor_of(comp), resource.RLIMIT_NOFILE)
        limit = (FILES, hard)
        resource.prlimit(compositor_of(comp), resource.RLIMIT_NOFILE, limit)
        yield comp, red, blue, work


def compositor_of(comp):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(comp.display))
        kind = struct.Struct("3i")
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, kind.size)
        return kind.unpack(found)[0]


def works(path):
    """Whether a program gets an answer of the compositor here."""
    with (
        suppress(OSError, GoneError, ServerError, TimeoutError),
        Client(path, deadline=20) as it,
    ):
        it.start()
        return True
    return False


async def test_two_sandboxes_leave_descriptors_to_a_third_and_to_the_desktop():
    async with three() as (comp, red, blue, work):
        with ExitStack() as held:
            taken = 0
            for stand in (red, blue):
                for _ in range(limits.WAYLAND_CLIENTS_PER_SANDBOX):
                    client = held.enter_context(Client(stand.path, deadline=20))
                    with suppress(OSError, GoneError, ServerError, TimeoutError):
                        client.start()
                        taken += 1
            assert taken > 100
            assert works(comp.display)
            assert works(work.path)
        await eventually(lambda: works(red.path))
