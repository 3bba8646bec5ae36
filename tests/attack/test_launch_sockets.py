"""A box against its broker: its sockets' directory, its identity, and floods."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from broker.peers.credentials import pid_namespaces_of_self
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

RECORD = """\
class = "persistent"
display = "allow"
[launch]
kind = "bwrap"
bind_read_write = ["{folder}"]
"""


@pytest.fixture(autouse=True)
def _kernel():
    """Whether the kernel can tell a container's pid namespace (Linux 6.11)."""
    if len(pid_namespaces_of_self()) == 0:
        pytest.skip("this kernel cannot tell a process's pid namespace")


@asynccontextmanager
async def stand():
    """A world with a record 'evil', and a directory that its box shares."""
    async with world(image=False) as w:
        folder = w.base / "shared"
        folder.mkdir()
        w.write_record("evil", RECORD.format(folder=folder))
        yield w, folder


async def inside(w, folder, code, *words):
    """Run Python in a box of 'evil'; returns what it printed, line by line."""
    (folder / "code.py").write_text(code)
    answer = await brokerctl(
        *("run", "-q", "evil", "--", "python3", str(folder / "code.py"), *words),
        env=w.environ,
    )
    assert answer.code == 0, answer
    return answer.lines


GAMES = """
import os
def tried(what, *words):
    try:
        what(*words)
    except OSError as error:
        print(what.__name__, error.errno)
    else:
        print(what.__name__, "done")
place = "/run/vitrail/"
tried(os.symlink, "/etc/passwd", place + "new")
tried(os.mkdir, place + "new")
tried(os.mkfifo, place + "new")
tried(os.unlink, place + "wayland-0")
tried(os.rename, place + "wayland-0", place + "vitrail.Audio")
tried(os.link, place + "wayland-0", place + "new")
tried(os.chmod, place + "wayland-0", 0o777)
tried(os.chmod, place, 0o777)
tried(os.truncate, place + "wayland-0", 0)
tried(os.open, place + "new", os.O_CREAT | os.O_RDWR)
tried(os.listdir, "/run/user/" + str(os.getuid()) + "/vitrail")
print("entries", *sorted(os.listdir(place)))
"""


async def test_the_directory_of_its_sockets_cannot_be_changed():
    """EROFS for all; a socket cannot be opened as a file either (ENXIO)."""
    async with stand() as (w, folder):
        *games, entries = await inside(w, folder, GAMES)
        assert len(games) == 11
        for line in games[:10]:
            assert line.split()[1] in {"30", "6", "22"}, line
        assert games[10].split() == ["listdir", "2"]
        assert entries.split()[1:] == ["vitrail.Audio", "vitrail.Display", "wayland-0"]
        assert list((w.paths.runtime / "launch").glob("*")) == []


FLOOD = """
import socket
held, refused = [], 0
for _ in range(1000):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    try:
        sock.connect("/run/vitrail/wayland-0")
    except OSError:
        refused += 1
    held.append(sock)
open(HERE + "/flooded", "w").close()
import time
time.sleep(1000)
"""


async def test_a_thousand_connections_of_one_box_stop_no_other():
    async with stand() as (w, folder):
        (folder / "code.py").write_text(f"HERE = {str(folder)!r}\n{FLOOD}")
        words = ("run", "-q", "evil", "--", "python3", str(folder / "code.py"))
        async with running(*words, env=w.environ):
            flooded = folder / "flooded"
            await eventually(flooded.exists, deadline=240)
            other = ("run", "-q", "--bwrap", "--", "foot", "-T", "calm", "sleep", "99")
            async with running(*other, env=w.environ):
                await wait_window(w.comp, title="calm")
            status = await w.status()
            assert len([s for s in status.streams if s.sandbox == "evil"]) <= 256


NESTED = """
import os, socket, sys
def connects():
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect("/run/vitrail/wayland-0")
    # wl_display.sync(new_id 2): answered by wl_callback.done, if we are let in.
    sock.sendall(bytes.fromhex("01000000" "00000c00" "02000000"))
    return len(sock.recv(4096)) > 0
libc = __import__("ctypes").CDLL(None, use_errno=True)
if libc.unshare(0x10000000 | 0x20000000):  # CLONE_NEWUSER, CLONE_NEWPID
    print("no namespaces")
    sys.exit()
child = os.fork()
if child == 0:
    os._exit(0 if connects() else 9)
print("inner", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


async def test_a_process_in_a_namespace_below_its_own_is_still_the_box():
    async with stand() as (w, folder):
        (line,) = await inside(w, folder, NESTED)
        assert line == "inner 0"
        (opened,) = w.events("stream.opened")
        assert opened["sandbox"] == "evil"


ORPHAN = """
import os, socket, time
sock = socket.socket(socket.AF_UNIX)
sock.connect("/run/vitrail/wayland-0")
if os.fork() == 0:
    os.setsid()
    time.sleep(1000)  # keeps the connection, when the first process has ended
"""


async def test_a_child_that_keeps_a_stream_ends_with_the_first_process():
    async with stand() as (w, folder):
        assert await inside(w, folder, ORPHAN) == []
        await w.wait_event("lease.end", sandbox="evil")
        assert (await w.status()).streams == []
        assert [p for p in w.processes().values() if "bwrap" in p] == []
