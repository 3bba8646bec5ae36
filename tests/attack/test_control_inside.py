"""Programs of a sandbox that sees the person's runtime directory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import trio

from broker.authority.control.server import serve
from broker.ipc.control.api import Version
from broker.ipc.control.methods import GET_VERSION, serves
from broker.net.peers import credentials
from broker.net.peers.control_peers import why_not_served
from broker.viewer.sound.mixer import SoundStatus, serve_desk
from tests.kit.control import partly
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import short_directory

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None or not credentials.can_ask_pid_namespaces(),
    reason="needs bubblewrap and Linux 6.11",
)

ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(20)
    sock.connect(sys.argv[1])
    try:
        sock.sendall(sys.argv[2].encode() + bytes([int(sys.argv[3])]))
    except OSError:
        pass  # refused already
    print(sock.recv(65536).decode())
"""
BOX = ("bwrap", "--bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--die-with-parent")  # fmt: skip
"""A box that sees everything of the person's."""


async def _asked(path, message, *words, end=0):
    python = f"{sys.base_prefix}/bin/python3"
    argv = [*words, python, "-c", ASK, str(path), json.dumps(message), str(end)]
    done = await trio.run_process(
        argv, capture_stdout=True, stderr=subprocess.DEVNULL, check=False
    )
    return done.stdout.decode()


class _Versioned:
    @serves(GET_VERSION)
    async def version(self, exchange, request):
        await trio.lowlevel.checkpoint()
        return Version(version="1", role="local", pid=1)


@asynccontextmanager
async def _broker():
    """A control socket with one method, served as the broker serves it."""
    api = partly([_Versioned()])
    with short_directory() as base:
        async with trio.open_nursery() as nursery:
            path = base / "control"
            await nursery.start(partial(serve, path, api, refuse=why_not_served))
            yield path
            nursery.cancel_scope.cancel()


async def test_program_of_a_box_gives_the_broker_no_orders():
    call = {"method": "io.vitrail.Broker.GetVersion"}
    async with _broker() as path:
        assert '"role":"local"' in await _asked(path, call)
        said = await _asked(path, call, *BOX)
    assert "serves no program of a container or box" in said
    assert "local" not in said


async def test_program_of_a_box_moves_no_slider():
    levels = []

    async def set_level(level):
        await trio.lowlevel.checkpoint()
        levels.append(level)

    status = SoundStatus("mail", 1, False, 0, 0, "deny")
    desk = SimpleNamespace(status=lambda: status, set_level=set_level)
    with short_directory() as base:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_desk, base, "mail", desk)
            await eventually((base / "mail").exists)
            assert not (
                await _asked(base / "mail", {"volume": 7}, *BOX, end=10)
            ).strip()
            assert levels == []
            await _asked(base / "mail", {"volume": 8}, end=10)
            assert [level.volume for level in levels] == [8]
            nursery.cancel_scope.cancel()
