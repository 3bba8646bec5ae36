"""Programs of a sandbox that sees the person's runtime directory."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from broker.authority.control.server import serve
from broker.ipc.control.api import Version
from broker.ipc.control.method import serves
from broker.ipc.control.methods import GET_VERSION
from broker.net.peers import credentials
from broker.net.peers.control_peers import why_not_served
from tests.kit.control import partly
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
        sock.sendall(sys.argv[2].encode() + bytes(1))
    except OSError:
        pass  # refused already
    print(sock.recv(65536).decode())
"""
BOX = ("bwrap", "--bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--die-with-parent")  # fmt: skip
"""A box that sees everything of the person's."""


async def _asked(path, message, *words):
    python = f"{sys.base_prefix}/bin/python3"
    argv = [*words, python, "-c", ASK, str(path), json.dumps(message)]
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
    assert "serves no programs of containers or boxes" in said
    assert "local" not in said


UNDUMPABLE = """
import ctypes, socket, sys
if sys.argv[2] == "undumpable":
    ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.recv(1)
"""
"""A client that the broker may not trace, so that the kernel tells it little of it."""
SERVER = """
import socket, sys
from broker.net.peers.control_peers import why_not_served
sock = socket.socket(fileno=int(sys.argv[1]))
conn, _ = sock.accept()
print(why_not_served(conn.fileno()) or "")
"""
"""A broker of an ordinary user, reduced to whom it serves."""
NOBODY = 65534
CONTAINER = ("unshare", "--pid", "--mount-proc", "--fork")
"""As a container of root's, without a user namespace."""


def _verdict(*words, user=None, dumpable="undumpable"):
    """What a broker of an ordinary user says of a client behind these words."""
    broker = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if os.getuid():
        broker = []  # that is who we are
    with short_directory() as base, socket.socket(socket.AF_UNIX) as sock:
        path = base / "control"
        sock.bind(str(path))
        sock.listen()
        base.chmod(0o755)
        path.chmod(0o777)
        argv = [*broker, sys.executable, "-c", SERVER, str(sock.fileno())]
        server = subprocess.Popen(
            argv, stdout=subprocess.PIPE, pass_fds=[sock.fileno()], text=True
        )
        switch = (
            [] if user is None else ["setpriv", f"--reuid={user}", "--clear-groups"]
        )
        client = [
            *words,
            *switch,
            sys.executable,
            "-c",
            UNDUMPABLE,
            str(path),
            dumpable,
        ]
        asks = subprocess.Popen(client)
        try:
            said, _ = server.communicate(timeout=60)
            assert server.returncode == 0
        finally:
            server.kill()
            asks.kill()
            asks.wait(30)
    return said.strip()


@pytest.mark.root
@pytest.mark.parametrize(
    ("user", "dumpable"),
    [(NOBODY, "undumpable"), (NOBODY, "dumpable"), (0, "undumpable"), (0, "dumpable")],
)
def test_program_of_a_container_that_may_not_be_traced_is_not_served(user, dumpable):
    """The kernel says EACCES, and that was taken for a kernel that cannot tell."""
    said = _verdict(*CONTAINER, user=user, dumpable=dumpable)
    assert "serves no programs of containers" in said


@pytest.mark.root
@pytest.mark.parametrize("user", [NOBODY, 0])
def test_programs_of_the_users_own_are_served_by_an_ordinary_broker(user):
    assert _verdict(user=user) == ""


def test_a_program_that_may_not_be_traced_is_served_in_the_users_own_namespace():
    """As an ssh-agent, or a password manager's, which are undumpable."""
    assert _verdict() == ""
