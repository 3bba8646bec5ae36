"""A micro VM's folder is all that its virtiofsd can reach, taken over or not.

Invariant: what serves a folder sees that directory and its libraries; read-only
stays read-only, nothing is written beside the folder, no setuid file is made in it, and
its end takes the folder away.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from broker.core import limits
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.limits import transfer as transfer_limits
from broker.helpers.mounts import mounts
from broker.helpers.mounts.opened import open_folder
from broker.host.folders.folder_server import (
    PLACE,
    ROOT,
    find_virtiofsd,
    folder_files,
    folder_view,
    start_folder_server,
)
from broker.host.folders.micro_vm import (
    ServedFolder,
    clear,
    free_place,
    revoke,
    serve,
)
from broker.host.vmm.vmm_jail import spawn_jailed
from tests.kit.eventually import eventually

TRY = """
import ctypes, os, struct, time
libc = ctypes.CDLL(None, use_errno=True)
top = "/shared/here"
while not os.path.exists(top + "/file"):
    time.sleep(0.01)
def tried(name, action):
    try:
        result = action()
        if isinstance(result, int) and result < 0:
            raise OSError(ctypes.get_errno(), "")
        print(name + "=worked", end=" ")
    except OSError as error:
        print(name + "=" + os.strerror(error.errno).split()[0], end=" ")
def killed(name, action):
    if (pid := os.fork()) == 0:
        tried(name, action)
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 31:
        print(name + "=killed", end=" ")
def make(path, mode=0o644):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))
print(open(top + "/file").read().strip(), end=" ")
for path in ("/etc/passwd", "/home", "/root", "/run", "/tmp"):
    tried("sees", lambda: os.stat(path))
tried("beside", lambda: make("/shared/beside"))
tried("root", lambda: make("/anywhere"))
tried("setuid", lambda: os.chmod(top + "/file", 0o4755))
tried("setgid", lambda: os.chmod(top + "/file", 0o2755))
tried("made", lambda: make(top + "/evil", 0o4755))
how = struct.pack("QQQ", os.O_CREAT | os.O_WRONLY, 0o4755, 0)
tried("hidden", lambda: libc.syscall(437, -100, top.encode() + b"/hidden", how, 24))
tried("folder", lambda: os.mkdir(top + "/evil", 0o2755))
tried("device", lambda: os.mknod(top + "/null", 0o20666, os.makedev(1, 3)))
tried("disk", lambda: os.mknod(top + "/disk", 0o60666, os.makedev(8, 0)))
tried("write", lambda: make(top + "/new"))
tried("mode", lambda: os.chmod(top + "/file", 0o755))
tried("namespace", lambda: libc.unshare(0x10000000))
killed("mount", lambda: libc.mount(b"x", b"/dev", b"tmpfs", 0, None))
killed("unmount", lambda: libc.umount2(top.encode(), 2))
killed("handle", lambda: libc.syscall(304, -100, None, 0))
print("end", flush=True)
"""


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home/Downloads"
    folder.mkdir(parents=True)
    (folder / "file").write_text("content\n")
    return tmp_path / "home"


@asynccontextmanager
async def shell_in_jail(script):
    """A shell in the place of virtiofsd; yields its process."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is needed")
    python = Path(sys.executable).resolve()
    view = folder_view(python)
    view = replace(view, readable=(Path(sysconfig.get_path("stdlib")),))
    process = await spawn_jailed("probe", [str(python), "-I", "-c", script], view)
    try:
        await eventually(Path(f"/proc/{process.pid}/root{ROOT}/{PLACE}").is_dir)
        yield process
    finally:
        process.kill()
        await process.wait()
        process.close()


async def tried(home, *, write):
    """What a program in the jail can do with a folder: its lines."""
    folder = open_folder(str(home / "Downloads"), home, ())
    async with shell_in_jail(TRY) as process:
        await serve(0, process, folder, write=write)
        with trio.fail_after(60):
            await process.wait()
        words = process.words
    folder.close()
    return words


@pytest.mark.parametrize("write", [False, True])
async def test_a_taken_over_server_has_its_folder_and_nothing_else(home, write):
    words = await tried(home, write=write)
    assert words.startswith("content"), words
    found = [word.split("=") for word in words.split() if "=" in word]
    found = [(name, result) for name, result in found if name != "sees"]
    assert words.count("sees=No") == 5, words
    assert dict(found) == {
        **dict.fromkeys(("beside", "root"), "Read-only"),
        **dict.fromkeys(("setuid", "setgid", "made", "namespace"), "Operation"),
        "folder": "Operation",
        **dict.fromkeys(("device", "disk"), "Operation" if write else "Read-only"),
        **dict.fromkeys(("write", "mode"), "worked" if write else "Read-only"),
        **dict.fromkeys(("mount", "unmount", "handle"), "killed"),
        "hidden": "Function",
    }, words
    assert words.endswith("end")
    mode = (home / "Downloads/file").stat().st_mode
    assert oct(mode) == ("0o100755" if write else "0o100644")
    assert sorted(os.listdir(home / "Downloads")) == (
        ["file", "new"] if write else ["file"]
    )


HELD = """
import errno, os, signal
held = []
try:
    while True:
        held.append(os.open("/", os.O_PATH))
except OSError as error:
    print(errno.errorcode[error.errno], held[-1], flush=True)
signal.pause()
"""


async def test_a_guest_has_a_share_of_the_files_that_the_machine_may_open(monkeypatch):
    """Each file that it knows is one: all of them kept every program from opening any."""
    monkeypatch.setattr(limits, "FOLDER_FILES", 300)
    async with shell_in_jail(HELD) as process:
        await eventually(lambda: process.words)
        assert process.words == "EMFILE 299"


MEMORY = """
import signal
held = []
try:
    while len(held) < 512:
        held.append(bytearray(1 << 20))
except MemoryError:
    pass
print(len(held), flush=True)
signal.pause()
"""


async def test_a_guest_has_no_memory_beside_its_own():
    """An open directory is 32 KiB in its server, and a guest may open all files' worth."""
    async with shell_in_jail(MEMORY) as process:
        await eventually(lambda: process.words)
        assert 128 < int(process.words) <= limits.GUEST_SERVER_BYTES >> 20


def test_the_folders_of_a_machine_share_its_files():
    endless = 2**63 - 1  # as systemd sets it
    assert folder_files(1, endless) == limits.FOLDER_FILES
    most = transfer_limits.FOLDERS_PER_SANDBOX
    assert folder_files(most, endless) * most == limits.FOLDERS_FILES
    small = 800_000  # of 8 GiB of memory, where the kernel chose
    assert folder_files(1, small) == 50_000
    assert folder_files(2, small) * 2 == 50_000


@asynccontextmanager
async def a_server(tmp_path):
    """A real virtiofsd, without a machine."""
    find_or_skip()
    place = tmp_path / "vm"
    place.mkdir()
    known = []
    server = await start_folder_server(0, place, known=known.append)
    try:
        assert os.listdir(place) == [], "no socket is left that others could open"
        assert len(known) == 2
        status = Path(f"/proc/{server.process.pid}/root")
        await eventually(lambda: os.listdir(status) == [PLACE])
        yield server.process
    finally:
        server.conn.close()
        await server.process.end(0)
        server.process.close()


async def test_a_folder_comes_and_goes_while_its_server_runs(tmp_path, home):
    folder = open_folder(str(home / "Downloads"), home, ())
    async with a_server(tmp_path) as process:
        root = Path(f"/proc/{process.pid}/root/{PLACE}")
        assert os.listdir(root) == []
        served = await serve(0, process, folder, write=False)
        assert served.path == "/folders/Downloads"
        assert os.listdir(root) == ["file"]
        with pytest.raises(OSError, match="Read-only"):
            (root / "file").write_text("x")
        await served.release()
        assert os.listdir(root) == []
        await serve(0, process, folder, write=True)
        (root / "file").write_text("changed")
    folder.close()
    assert (home / "Downloads/file").read_text() == "changed"


async def test_a_folder_that_its_guest_holds_ends_its_server(tmp_path, home):
    folder = open_folder(str(home / "Downloads"), home, ())
    async with a_server(tmp_path) as process:
        served = await serve(0, process, folder, write=False)
        root = Path(f"/proc/{process.pid}/root/{PLACE}")
        held = os.open(root / "file", os.O_RDONLY)
        try:
            with pytest.raises(RefusedError, match="open"):
                await served.release()
            await revoke(served)
        finally:
            os.close(held)
        assert process.ended
        with trio.fail_after(60), pytest.raises(UpstreamError, match="virtiofsd"):
            await served.lost()
        with pytest.raises(UpstreamError, match="has ended"):
            await serve(0, process, folder, write=False)
    folder.close()


@pytest.mark.parametrize("how", ["fails", "cancelled"])
async def test_a_mount_that_is_given_up_late_leaves_nothing(
    tmp_path, home, monkeypatch, how
):
    """The helper has mounted it, and the broker stops waiting before it hears that."""
    folder = open_folder(str(home / "Downloads"), home, ())
    attach = mounts.attach
    with trio.CancelScope() as scope:

        async def late(*args, **more):
            await attach(*args, **more)
            if how == "fails":
                raise UpstreamError("it took longer than 20 s")
            scope.cancel()
            await trio.lowlevel.checkpoint()

        monkeypatch.setattr(mounts, "attach", late)
        async with a_server(tmp_path) as process:
            root = Path(f"/proc/{process.pid}/root/{PLACE}")
            with pytest.raises((UpstreamError, trio.Cancelled)):
                await serve(0, process, folder, write=True)
            assert os.listdir(root) == []
            assert not process.ended, "the place can be used again"
    folder.close()


@pytest.mark.parametrize(
    "error", [OSError(24, "Too many open files"), UpstreamError("it took 20 s")]
)
async def test_a_folder_that_cannot_be_unmounted_ends_its_server(
    tmp_path, home, monkeypatch, error
):
    folder = open_folder(str(home / "Downloads"), home, ())

    async def detach(*_, **__):
        await trio.lowlevel.checkpoint()
        raise error

    async with a_server(tmp_path) as process:
        served = await serve(0, process, folder, write=False)
        monkeypatch.setattr(mounts, "detach", detach)
        await revoke(served)
        assert process.ended
    folder.close()


async def test_what_an_earlier_broker_left_is_taken_back(tmp_path, home, monkeypatch):
    folder = open_folder(str(home / "Downloads"), home, ())
    async with a_server(tmp_path) as process:
        machine = Machine({0: process})
        await clear(machine)
        assert not process.ended, "nothing was mounted"
        await serve(0, process, folder, write=False)
        await clear(machine)
        assert os.listdir(f"/proc/{process.pid}/root/{PLACE}") == []
        assert not process.ended
        await serve(0, process, folder, write=False)

        async def detach(*_, **__):
            await trio.lowlevel.checkpoint()
            raise UpstreamError("it took 20 s")

        monkeypatch.setattr(mounts, "detach", detach)
        await clear(machine)
        assert process.ended
    folder.close()


class Machine:
    """A machine with these servers."""

    def __init__(self, servers):
        self.folder_servers = servers


async def test_a_place_is_taken_once_and_never_of_a_dead_server(tmp_path):
    async with a_server(tmp_path) as process:
        machine = Machine({0: process})
        assert free_place(machine, set()) == (0, process)
        with pytest.raises(RefusedError, match="no free slot"):
            free_place(machine, {0})
        process.kill()
        await process.wait()
        with pytest.raises(RefusedError, match=r"1 slots .* 1 can no longer be used"):
            free_place(machine, set())
        await revoke(ServedFolder(process, 0, ""))


async def test_no_jail_no_folder(tmp_path, monkeypatch):
    """Other programs of a machine may be let run without one; this may not."""
    find_or_skip()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError):
        await start_folder_server(0, tmp_path, known=lambda process: None)


def find_or_skip():
    try:
        find_virtiofsd()
    except SetupError as error:
        pytest.skip(str(error))
