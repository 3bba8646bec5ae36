"""Attack on shared folders: from inside a box, and by the path that is shared."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.helpers.mounts import mounts, opened
from broker.helpers.mounts.namespaces import mount_namespace
from broker.helpers.mounts.opened import open_folder
from broker.helpers.process.spawn import PIPE, spawn
from broker.host.folders import folder_mounts
from broker.host.folders.folder_mounts import FolderHost
from broker.host.launchers.bubblewrap.arguments import SOCKETS, Box
from broker.wire.faults import HeldError
from tests.kit.boxes import start_held
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.rulebook import WORK

needs_box = requires("bwrap", "/usr/bin/python3")


@pytest.fixture
def home(tmp_path):
    """A home with a folder to share, which holds a file and a link to a secret."""
    home = tmp_path / "home"
    shared = home / "Downloads"
    (shared / "sub").mkdir(parents=True)
    (shared / "file").write_text("content")
    (home / ".ssh").mkdir()
    (home / ".ssh/id").write_text("secret")
    (home / ".local/state/vitrail").mkdir(parents=True)
    (shared / "link").symlink_to(home / ".ssh/id")
    (shared / "up").symlink_to("../.ssh/id")
    return home


# -- the directory that is named ------------------------------------------------------


def refused(path, home, *private):
    with pytest.raises(RefusedError) as caught:
        open_folder(str(path), home, private).close()
    return caught.value.message


def test_secrets_are_not_shared(home, tmp_path):
    for path in (home, home.parent, "/", "/home", "/tmp"):
        assert refused(path, home)
    for path in (home / ".ssh", home / ".local", home / ".local/state/vitrail"):
        assert "hidden directories" in refused(path, home)
    state = tmp_path / "elsewhere/state"
    (state / "audit").mkdir(parents=True)
    for path in (state, state / "audit", tmp_path / "elsewhere"):
        assert "the broker's directory" in refused(path, home, state)


def test_what_belongs_to_the_system_is_not_shared(home):
    for path in ("/etc", "/proc/self", "/sys/class", "/dev/shm", "/usr/share", "/run"):
        assert "is a system directory" in refused(path, home)


def test_a_link_leads_to_the_directory_that_is_checked(home):
    (home / "innocent").symlink_to(home / ".ssh")
    assert "hidden directories" in refused(home / "innocent", home)
    (home / "good").symlink_to(home / "Downloads")
    folder = open_folder(str(home / "good"), home, ())
    assert folder.path == (home / "Downloads").resolve()
    folder.close()


def test_a_link_that_comes_behind_the_check_is_not_followed(home, monkeypatch):
    real = os.path.realpath

    def swapped(path, **more):
        found = real(path, **more)
        if found.endswith("/Downloads"):
            (home / "Downloads").rename(home / "away")
            (home / "Downloads").symlink_to(home / ".ssh")
        return found

    monkeypatch.setattr(opened.os.path, "realpath", swapped)
    assert "cannot share" in refused(home / "Downloads", home)


def test_a_directory_of_another_user_is_not_shared(home, monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: os.geteuid() + 1)
    assert "another user" in refused(home / "Downloads", home)


def test_a_kernel_file_system_is_not_shared(home, monkeypatch):
    """A FUSE file system in the home, as a desktop mounts it."""
    monkeypatch.setattr(opened, "_file_system", lambda _: 0x65735546)
    assert "FUSE" in refused(home / "Downloads", home)


async def test_a_process_that_has_ended_has_no_namespace():
    """Its number may be another process's by then."""
    child = spawn(["sleep", "600"], name="sleep")
    other = spawn(["sleep", "600"], name="sleep")
    pidfd = os.dup(other.pidfd)
    await other.stop()
    with (
        pytest.raises(RefusedError, match="has ended"),
        mount_namespace(child.pid, pidfd),
    ):
        pass
    os.close(pidfd)
    await child.stop()


def test_odd_names_and_files_are_refused(home):
    (home / "-rf").mkdir()
    (home / "a\nb").mkdir()
    for path in ("Downloads", home / "Downloads/file", home / "-rf", home / "a\nb"):
        assert refused(path, home)
    assert refused(f"{home}/Down\0loads", home)


# -- the sandbox that has it -----------------------------------------------------------


@asynccontextmanager
async def box(tmp_path, program):
    """A running box with a program; yields its leader, a namespace, its output."""
    sockets = tmp_path / "s"
    sockets.mkdir()
    # A program that makes namespaces is one of a record that opens them.
    nested = "unshare(" in program
    argv = ("/usr/bin/python3", "-I", "-c", program)
    held = await start_held(Box(argv, sockets, user_namespaces=nested, folders=True))
    pidfd = os.pidfd_open(held.leader)
    try:
        with trio.fail_after(60):
            await mounts.wait_set_up(held.leader, SOCKETS)
            with mount_namespace(held.leader, pidfd) as namespace:
                yield held, namespace
    finally:
        os.close(pidfd)
        await held.end()
        for pipe in (held.child.popen.stdout, held.child.popen.stderr):
            pipe.close()


async def output(held):
    held.release()
    with held.child.popen.stdout as stdout, held.child.popen.stderr as stderr:
        out = await trio.to_thread.run_sync(stdout.read)
        err = await trio.to_thread.run_sync(stderr.read)
    return dict(line.split(" ", 1) for line in out.decode().splitlines()), err.decode()


TRY = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
top = "/folders/Downloads"
def tried(action):
    try:
        return action() or "worked"
    except OSError as error:
        return errno.errorcode[error.errno]
def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
def in_namespaces(action):
    read, write = os.pipe()
    if os.fork() == 0:
        libc.unshare(0x10000000 | 0x20000)
        os.write(write, tried(action).encode())
        os._exit(0)
    return os.read(read, 100).decode()
REMOUNT = 0x20 | 0x1000
print("read", open(top + "/file").read())
print("write", tried(lambda: open(top + "/file", "a") and None))
print("make", tried(lambda: os.mkdir(top + "/new")))
print("rename", tried(lambda: os.rename(top + "/file", top + "/sub/file")))
print("hardlink-out", tried(lambda: os.link(top + "/file", "/tmp/file")))
print("link", tried(lambda: open(top + "/link").read()))
print("up", tried(lambda: open(top + "/up").read()))
print("parent", sorted(os.listdir(top + "/..")))
print("remount", in_namespaces(lambda: call(libc.mount(None, top.encode(), None, REMOUNT, None))))
print("bind", in_namespaces(lambda: call(libc.mount(top.encode(), b"/tmp", None, 0x1000, None))
      or call(libc.mount(None, b"/tmp", None, REMOUNT, None))))
print("unmount", tried(lambda: call(libc.umount2(top.encode(), 2))))
flags = [line.split()[5] for line in open("/proc/self/mountinfo") if top in line]
print("flags", *flags)
print("device", tried(lambda: os.mknod(top + "/null", 0o20666, os.makedev(1, 3))))
"""


@needs_box
async def test_a_folder_to_be_read_cannot_be_changed_or_left(home, tmp_path):
    folder = open_folder(str(home / "Downloads"), home, ())
    async with box(tmp_path, TRY) as (held, namespace):
        inside, _ = await mounts.attach(namespace, folder, write=False)
        assert inside == "/folders/Downloads"
        found, problem = await output(held)
    folder.close()
    assert found.pop("read") == "content", problem
    assert found.pop("parent") == "['Downloads']"
    assert {"ro", "nosuid", "nodev"} <= set(found.pop("flags").split(","))
    read_only = dict.fromkeys(("write", "make"), "EROFS")
    for name in ("remount", "bind", "unmount", "device", "rename"):
        assert found.pop(name) in {"EPERM", "EINVAL", "EROFS", "EACCES"}, name
    outside = dict.fromkeys(("link", "up"), "ENOENT")
    assert found == {**read_only, **outside, "hardlink-out": "EXDEV"}


WRITE = """
import os, sys
top = "/folders/Downloads"
open(top + "/new", "w").write("x")
try:
    os.chmod(top + "/new", 0o4755)
    print("setuid worked")
except PermissionError:
    print("setuid EPERM")
os.symlink("/etc/passwd", top + "/planted")
print("flags", *[l.split()[5] for l in open("/proc/self/mountinfo") if top in l])
os.chdir(top + "/sub")
sys.stdout.flush()
open("/tmp/here", "w").close()
while os.path.exists(top + "/sub"):
    pass
try:
    print("up", os.listdir(".."))
except OSError as error:
    print("up", type(error).__name__)
"""


@needs_box
async def test_a_directory_that_is_moved_out_leads_nowhere(home, tmp_path):
    """Escape by rename: the person moves the box's current directory out of the folder."""
    folder = open_folder(str(home / "Downloads"), home, ())
    async with box(tmp_path, WRITE) as (held, namespace):
        await mounts.attach(namespace, folder, write=True)
        held.release()

        def stands_there():
            return Path(f"/proc/{held.leader}/root/tmp/here").exists()

        await eventually(stands_there)
        (home / "Downloads/sub").rename(home / "moved")
        found, problem = await output(held)
    folder.close()
    assert {"rw", "nosuid", "nodev"} <= set(found["flags"].split(","))
    assert found["setuid"] == "EPERM"
    assert found["up"] == "FileNotFoundError", problem
    assert (home / "Downloads/planted").is_symlink()


@needs_box
async def test_a_directory_that_was_replaced_is_not_mounted(home, tmp_path):
    folder = open_folder(str(home / "Downloads"), home, ())
    (home / "Downloads").rename(home / "away")
    (home / "Downloads").mkdir()
    async with box(tmp_path, "pass") as (_, namespace):
        with pytest.raises(UpstreamError, match="replaced during the operation"):
            await mounts.attach(namespace, folder, write=False)
    folder.close()


@needs_box
async def test_a_link_in_the_place_of_the_mount_is_not_followed(home, tmp_path):
    program = "import os, time; os.symlink('/tmp', '/folders'); time.sleep(600)"
    folder = open_folder(str(home / "Downloads"), home, ())
    async with box(tmp_path, program) as (held, namespace):
        held.release()
        root = Path(f"/proc/{held.leader}/root")
        await eventually((root / "folders").is_symlink)
        with pytest.raises(UpstreamError):
            await mounts.attach(namespace, folder, write=False)
    folder.close()


@needs_box
async def test_a_link_above_a_place_is_not_followed(home, tmp_path):
    """A mount at a path of the record's: to mount, and to unmount."""
    program = (
        "import os, time; os.symlink('/tmp', '/srv'); time.sleep(600)",
        (
            "import os, time\n"
            "while not os.path.exists('/srv/deep/docs/file'): pass\n"
            "os.rename('/srv/deep', '/srv/away'); os.makedirs('/tmp/x/docs')\n"
            "os.symlink('/tmp/x', '/srv/deep'); time.sleep(600)"
        ),
    )
    folder = open_folder(str(home / "Downloads"), home, ())
    async with box(tmp_path, program[0]) as (held, namespace):
        held.release()
        root = Path(f"/proc/{held.leader}/root")
        await eventually((root / "srv").is_symlink)
        with pytest.raises(UpstreamError):
            await mounts.attach(namespace, folder, write=False, base="/srv/deep")
        assert not (root / "tmp/deep").exists()
    second = tmp_path / "second"
    second.mkdir()
    async with box(second, program[1]) as (held, namespace):
        place = {"base": "/srv/deep", "name": "docs"}
        attached = await mounts.attach(namespace, folder, write=False, **place)
        held.release()
        root = Path(f"/proc/{held.leader}/root")
        await eventually((root / "srv/deep").is_symlink)
        with pytest.raises(mounts.AbsentError):
            await mounts.detach(namespace, "docs", base="/srv/deep")
        with pytest.raises(HeldError):
            mounts.refuse_moved(held.leader, attached.number)
    folder.close()


HOLD = """
import os, time
held = os.open("/folders/Downloads", os.O_RDONLY)
open("/tmp/here", "w").close()
time.sleep(600)
"""
COPY = """
import ctypes, os, time
ctypes.CDLL(None).unshare(0x10000000 | 0x20000)
open("/tmp/here", "w").close()
time.sleep(600)
"""


@needs_box
@pytest.mark.parametrize("program", [HOLD, COPY])
async def test_a_program_that_keeps_a_folder_is_found(home, tmp_path, program):
    """An open descriptor, and a copy of the mount in a separate namespace."""
    folder = open_folder(str(home / "Downloads"), home, ())
    async with box(tmp_path, program) as (held, namespace):
        await mounts.attach(namespace, folder, write=False)
        held.release()
        here = Path(f"/proc/{held.leader}/root/tmp/here")
        await eventually(here.exists)
        if program is COPY:
            with pytest.raises(HeldError):
                mounts.refuse_other_namespaces(held.leader)
        else:
            with pytest.raises(HeldError):
                await mounts.detach(namespace, "Downloads")
        await mounts.detach(namespace, "Downloads", lazily=True)
        root = Path(f"/proc/{held.leader}/root")
        assert not (root / "folders/Downloads/file").exists()
    folder.close()


@needs_box
async def test_an_unused_folder_is_unmounted(home, tmp_path):
    folder = open_folder(str(home / "Downloads"), home, ())
    program = "import time; time.sleep(600)"
    async with box(tmp_path, program) as (held, namespace):
        await mounts.attach(namespace, folder, write=False)
        root = Path(f"/proc/{held.leader}/root")
        assert (root / "folders/Downloads/file").read_text() == "content"
        mounts.refuse_other_namespaces(held.leader)
        await mounts.detach(namespace, "Downloads")
        assert not (root / "folders/Downloads").exists()
    folder.close()


@asynccontextmanager
async def _hosted(tmp_path, home, monkeypatch, program, name="Downloads"):
    """A box that a host part knows; yields the part, the folder and the box's root."""
    folder = open_folder(str(home / name), home, ())
    monkeypatch.setattr(folder_mounts, "_leader", lambda machine: machine.pid)
    async with box(tmp_path, program) as (held, _):
        machine = SimpleNamespace(pid=held.leader, alive=lambda: {held.leader})
        active = SimpleNamespace(lease=WORK, machine=machine, stopping=False)
        host = SimpleNamespace(active_leases=lambda: [active])
        held.release()
        root = Path(f"/proc/{held.leader}/root")
        yield FolderHost(host, tmp_path), folder, root
    folder.close()


@pytest.fixture
def hosted(tmp_path, home, monkeypatch):
    """See ``_hosted``: for a program, and the name of the folder."""
    return partial(_hosted, tmp_path, home, monkeypatch)


WAIT = "import time; time.sleep(600)"
WAIT_MOUNTED = """
import os, time
while not os.path.exists("/folders/Downloads/file"):
    time.sleep(0.001)
"""
HOLD_WHEN_IT_COMES = """
import os, time
while not os.path.exists("/folders/Downloads/file"):
    time.sleep(0.001)
held = os.open("/folders/Downloads", os.O_RDONLY)
open("/tmp/here", "w").close()
time.sleep(600)
"""
COPY_WHEN_IT_COMES = HOLD_WHEN_IT_COMES.replace(
    'held = os.open("/folders/Downloads", os.O_RDONLY)',
    "import ctypes; ctypes.CDLL(None).unshare(0x10000000 | 0x20000)",
)


@needs_box
@pytest.mark.parametrize("program", [WAIT, HOLD_WHEN_IT_COMES])
async def test_a_mount_that_is_given_up_late_is_undone(monkeypatch, program, hosted):
    """The helper has mounted it, and the broker stops waiting before it hears that."""
    attach = mounts.attach
    async with hosted(program) as (host, folder, root):

        async def late(*args, **more):
            await attach(*args, **more)
            if program is not WAIT:
                await eventually((root / "tmp/here").exists)
            raise UpstreamError("it took longer than 20 s")

        monkeypatch.setattr(mounts, "attach", late)
        wanted = UpstreamError if program is WAIT else HeldError
        with pytest.raises(wanted):
            async with host.mounted(WORK, folder, write=True):
                pass
        assert not (root / "folders/Downloads/file").exists()


@needs_box
@pytest.mark.parametrize("program", [HOLD_WHEN_IT_COMES, COPY_WHEN_IT_COMES])
async def test_a_crash_lets_no_program_keep_a_folder(tmp_path, program, hosted):
    async with hosted(program) as (host, folder, root):
        mounted = host.mounted(WORK, folder, write=True)
        await mounted.__aenter__()
        await eventually((root / "tmp/here").exists)
        assert await FolderHost(host._host, tmp_path).forget(WORK)
        assert not (root / "folders/Downloads/file").exists()
        await mounted.__aexit__(None, None, None)


MOVE_WHEN_IT_COMES = """
import os, time
while not os.path.exists("/folders/Downloads/file"):
    time.sleep(0.001)
os.rename("/folders", "/kept")
os.mkdir("/folders")
open("/tmp/here", "w").close()
time.sleep(600)
"""


@needs_box
@pytest.mark.parametrize("name", ["Downloads", "tmp"])
async def test_a_folder_whose_place_was_moved_is_found(home, tmp_path, name, hosted):
    """The box renames the directory of the mount: nothing is mounted at its path then,
    or something else is."""
    (home / "Downloads").rename(home / name)
    program = MOVE_WHEN_IT_COMES.replace("Downloads", name)
    if name == "tmp":
        program = program.replace('os.mkdir("/folders")', 'os.symlink("/", "/folders")')
        program = program.replace("/tmp/here", "/here")
    async with hosted(program, name) as (host, folder, root):
        mounted = host.mounted(WORK, folder, write=True)
        one = await mounted.__aenter__()
        await eventually((root / "tmp/here" if name != "tmp" else root / "here").exists)
        assert (root / "kept" / name / "file").exists()
        with pytest.raises(VitrailError):
            await one.release()
        assert await FolderHost(host._host, tmp_path).forget(WORK)
        await mounted.__aexit__(None, None, None)
        assert one.kept


@needs_box
async def test_a_later_sandbox_of_the_name_has_no_folder_of_the_earlier(
    tmp_path, hosted
):
    async with hosted(WAIT) as (host, folder, _):
        mounted = host.mounted(WORK, folder, write=True)
        await mounted.__aenter__()
        (active,) = host._host.active_leases()
        later = SimpleNamespace(pid=os.getpid(), alive=lambda: {os.getpid()})
        new = SimpleNamespace(lease=WORK, machine=later, stopping=False)
        fresh = SimpleNamespace(active_leases=lambda: [new])
        assert not await FolderHost(fresh, tmp_path).forget(WORK)
        assert active.machine.alive()
        await mounted.__aexit__(None, None, None)


@needs_box
async def test_a_note_that_was_cut_off_counts_as_kept(tmp_path, hosted):
    async with hosted(WAIT) as (host, folder, _):
        mounted = host.mounted(WORK, folder, write=True)
        await mounted.__aenter__()
        note = tmp_path / "folders" / WORK.sandbox
        note.write_bytes(note.read_bytes()[:-5])
        assert await FolderHost(host._host, tmp_path).forget(WORK)
        await mounted.__aexit__(None, None, None)
        assert not note.exists()


@needs_box
async def test_after_a_crash_an_unused_folder_is_unmounted(tmp_path, hosted):
    async with hosted(WAIT) as (host, folder, root):
        mounted = host.mounted(WORK, folder, write=True)
        await mounted.__aenter__()
        assert (root / "folders/Downloads/file").exists()
        assert not await FolderHost(host._host, tmp_path).forget(WORK)
        assert not (root / "folders/Downloads/file").exists()
        assert not await FolderHost(host._host, tmp_path).forget(WORK)
        await mounted.__aexit__(None, None, None)


async def may_not(pid, *, closed):
    del pid, closed
    return False


@needs_box
async def test_a_copy_made_while_it_is_unmounted_is_found(monkeypatch, hosted):
    """A program makes namespaces again and again, and one falls between two looks."""
    async with hosted(COPY_WHEN_IT_COMES) as (host, folder, root):
        async with host.mounted(WORK, folder, write=False) as mounted:
            await eventually((root / "tmp/here").exists)
            monkeypatch.setattr(mounts, "refuse_other_namespaces", lambda pid: None)
            # As of a container whose own filter of system calls permits namespaces.
            monkeypatch.setattr(mounts, "may_make_mounts", may_not)
        assert mounted.released
        assert mounted.kept


KEEP_BY_DESCRIPTOR = """
import array, ctypes, os, socket, time
while not os.path.exists("/folders/Downloads/file"):
    time.sleep(0.001)
ours, theirs = socket.socketpair()
if os.fork() == 0:
    ctypes.CDLL(None).unshare(0x10000000 | 0x20000)
    copy = os.open("/folders/Downloads", os.O_RDONLY)
    theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [copy]))])
    os._exit(0)
_, control, _, _ = ours.recvmsg(1, 100)
copy = array.array("i", control[0][2][:4])[0]
os.wait()
open("/tmp/here", "w").close()
while os.path.exists("/folders/Downloads/file"):
    time.sleep(0.001)
text = os.read(os.open("file", os.O_RDONLY, dir_fd=copy), 100)
os.write(os.open("/tmp/got", os.O_WRONLY | os.O_CREAT), text)
time.sleep(600)
"""


@needs_box
async def test_copy_in_a_namespace_without_a_process_is_not_overlooked(hosted):
    """No process has it, a descriptor does: no look at processes would find it."""
    async with hosted(KEEP_BY_DESCRIPTOR) as (host, folder, root):
        async with host.mounted(WORK, folder, write=False) as mounted:
            await eventually((root / "tmp/here").exists)
            with pytest.raises(RefusedError, match="may have separate mounts"):
                await mounted.release()
            assert not mounted.released
        assert mounted.kept, "the sandbox is ended then"


@needs_box
async def test_copy_without_a_process_is_not_overlooked_after_a_crash(tmp_path, hosted):
    async with hosted(KEEP_BY_DESCRIPTOR) as (host, folder, root):
        mounted = host.mounted(WORK, folder, write=True)
        await mounted.__aenter__()
        await eventually((root / "tmp/here").exists)
        assert await FolderHost(host._host, tmp_path).forget(WORK)
        await mounted.__aexit__(None, None, None)


@needs_box
async def test_box_without_namespaces_gives_a_folder_back(hosted):
    """The kernel has no mount namespace for it, so nothing is to be looked for."""
    async with hosted(WAIT) as (host, folder, _):
        async with host.mounted(WORK, folder, write=False) as mounted:
            await mounted.release()
        assert mounted.released
        assert not mounted.kept


@needs_box
async def test_a_sandbox_that_may_mount_may_have_a_copy(home, tmp_path):
    """A second place in the same namespace is found by no look at namespaces."""
    program = """
import ctypes, time
mount = ctypes.CDLL(None).mount
mount(b"/folders/Downloads", b"/tmp", None, 0x1000, None)
open("/tmp2/here", "w").close()
time.sleep(600)
"""
    words = ["bwrap", "--unshare-all", "--cap-add", "CAP_SYS_ADMIN", "--as-pid-1"]
    for path in ("/usr", "/lib", "/lib64", "/bin"):
        words += ["--ro-bind-try", path, path]
    words += ["--tmpfs", "/tmp", "--tmpfs", "/tmp2", "--tmpfs", "/run"]
    words += ["--info-fd", "1", "--", "/usr/bin/python3", "-I", "-c", WAIT_MOUNTED]
    words[-1] += program
    folder = open_folder(str(home / "Downloads"), home, ())
    child = spawn(words, name="bwrap", stdout=PIPE)
    try:
        line = await trio.to_thread.run_sync(child.popen.stdout.readline)
        while b"child-pid" not in line:
            line = await trio.to_thread.run_sync(child.popen.stdout.readline)
        pid = int(line.split(b":")[1].strip(b" ,\n"))
        root = Path(f"/proc/{pid}/root")
        await eventually((root / "tmp2").is_dir)
        pidfd = os.pidfd_open(pid)
        with mount_namespace(pid, pidfd) as namespace:
            await mounts.attach(namespace, folder, write=False)
            await eventually((root / "tmp2/here").exists)
            assert (root / "tmp/file").exists(), "the copy"
            with pytest.raises(HeldError):
                mounts.refuse_other_namespaces(pid)
            await mounts.detach(namespace, "Downloads")
            assert (root / "tmp/file").exists(), "it stays"
            assert mounts.may_have_copy(pid)
        os.close(pidfd)
    finally:
        child.popen.stdout.close()
        await child.stop(0)
    folder.close()


@needs_box
async def test_without_descriptors_a_folder_counts_as_kept(monkeypatch, hosted):
    async with hosted(WAIT) as (host, folder, _):

        async def detach(*_, **__):
            await trio.lowlevel.checkpoint()
            raise OSError(24, "Too many open files")

        async with host.mounted(WORK, folder, write=False) as mounted:
            monkeypatch.setattr(mounts, "detach", detach)
        assert mounted.kept


def test_our_own_mount_namespace_is_never_taken():
    pidfd = os.pidfd_open(os.getpid())
    with (
        pytest.raises(RefusedError, match="mount namespace of this session"),
        mount_namespace(os.getpid(), pidfd),
    ):
        pass
    os.close(pidfd)
