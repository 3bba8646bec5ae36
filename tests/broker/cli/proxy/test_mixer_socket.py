"""The mixer's socket: how many programs are served at a time."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.cli.proxy.mixer_socket import serve_desk
from broker.core.limits import sound as limits
from broker.ipc.control.types.sound import SoundStatus
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import short_directory

DESK = SimpleNamespace(status=lambda: SoundStatus("mail", 1, False, 0, 0, "deny"))


@asynccontextmanager
async def served():
    """A mixer, and a function that connects to it and asks."""
    with short_directory() as base:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_desk, base, "mail", DESK)
            await eventually((base / "mail").exists)

            def ask():
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(base / "mail"))
                sock.sendall(b"{}\n")
                sock.setblocking(False)
                return sock

            yield ask
            nursery.cancel_scope.cancel()


async def answer(sock):
    with trio.fail_after(30):
        await trio.lowlevel.wait_readable(sock)
    return sock.recv(65536)


async def test_programs_up_to_the_limit_are_served_at_once_and_further_ones_wait():
    async with served() as ask:
        held = [ask() for _ in range(limits.MIXER_CONNECTIONS)]
        for sock in held:
            assert b'"mail"' in await answer(sock)
        with ask() as further:
            await wait_all_tasks_blocked(0.05)
            with pytest.raises(BlockingIOError):
                further.recv(1)
            held.pop().close()
            assert b'"mail"' in await answer(further)
        for sock in held:
            sock.close()
