"""A viewer that was taken over keeps what a permit has begun, after the permit's end."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import time

import pytest
import trio

from broker.core.errors import RefusedError
from broker.core.services import CALL, FOLDER
from broker.helpers.process.spawn import has_ended
from broker.host.folders.given import GivenFolders
from broker.ipc.session.bus_orders import HoldPermit
from broker.ipc.session.folder_orders import GiveFolder, OpenFolder, ServeFolder
from broker.ipc.session.service_orders import ServeNow, StartService
from broker.session.read_warrant import SECONDS
from tests.attack.test_session_orders_folders import home, session, share
from tests.attack.test_session_orders_services import services
from tests.kit.session import Signed

__all__ = ["home", "services", "session"]


def _permits(session, home, at):
    """The permit for a folder, and its renewals by when they are signed."""
    fields = {"argument": "+docs", "about": str(home / "docs")}
    first = session.permit(FOLDER, **fields, at=at)
    return first, lambda at: session.permit(FOLDER, **fields, at=at, renewed=True)


async def test_a_running_service_ends_with_its_permit(services):
    """The viewer has its stream, and ends nothing."""
    at = time.monotonic() - SECONDS + 6
    fields = {"argument": "+echo", "sandbox": "work"}
    warrant = services.permit(CALL, **fields, at=at)
    async with services.carrying_out(
        Signed(warrant, StartService("echo", ""))
    ) as begun:
        (fd,) = (await begun.more(ServeNow())).fds
        # Renewed once: it runs on, for as long as that is good.
        renewal = services.permit(CALL, **fields, at=at + 3, renewed=True)
        with trio.fail_after(3):
            await begun.more(Signed(renewal, HoldPermit()))
        with socket.socket(fileno=fd) as ours:
            await trio.sleep(at + SECONDS + 0.5 - time.monotonic())
            ours.settimeout(15)
            ours.sendall(b"\0\0\0\2hi")
            assert ours.recv(1000)
            while ours.recv(1000):
                pass
        assert time.monotonic() >= at + SECONDS + 3


async def test_a_mounted_folder_is_held_while_its_permit_is(session, home):
    """The host unmounts it when the child that it was given by has ended."""
    path = home / "docs"
    at = time.monotonic() - SECONDS + 5
    warrant, renewal = _permits(session, home, at)
    order = Signed(share(session, path), OpenFolder(str(path), False))
    async with session.carrying_out(order) as opened:
        ticket = (await opened.more(Signed(warrant, GiveFolder()))).value.ticket
        folder, _, holder = GivenFolders(session.host).take(ticket, "web-1")
        folder.close()
        with os.fdopen(holder):
            with trio.fail_after(3):
                await opened.more(Signed(renewal(at + 3), HoldPermit()))
            await trio.sleep(at + SECONDS + 0.5 - time.monotonic())
            assert not has_ended(holder), "its permit was renewed"
            with trio.fail_after(10):
                await opened.process.wait()
            assert has_ended(holder)


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is missing")
@pytest.mark.parametrize("late", [False, True])
async def test_a_served_folder_ends_with_its_permit(session, home, late):
    """The guest is elsewhere, and the viewer has its connection."""
    path = home / "docs"
    session.host.close()
    at = time.monotonic() - SECONDS + 5
    warrant, renewal = _permits(session, home, at)
    order = Signed(share(session, path), OpenFolder(str(path), False))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with session.carrying_out(order) as opened:
            ticket = (await opened.more(Signed(warrant, GiveFolder()))).value.ticket
            assert not ticket
            with trio.fail_after(3):
                await opened.more(Signed(renewal(at + 2), HoldPermit()))
            if late:
                await trio.sleep(at + SECONDS + 2.5 - time.monotonic())
                with pytest.raises(RefusedError, match="expired"):
                    await opened.more(ServeFolder(), [theirs.fileno()])
                return
            await opened.more(ServeFolder(), [theirs.fileno()])
            theirs.close()
            with trio.fail_after(3):
                await opened.more(Signed(renewal(at + 3), HoldPermit()))
            await trio.sleep(at + SECONDS + 0.5 - time.monotonic())
            ours.settimeout(15)
            ours.sendall(struct.pack(">IBI", 5, 1, 3))  # SSH_FXP_INIT
            assert ours.recv(1000)
            assert ours.recv(1000) == b""
