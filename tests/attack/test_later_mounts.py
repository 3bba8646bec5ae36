"""Attack by waiting: what the user mounts below a shared directory after the start.

Invariant: a vault that the user unlocks, or a stick, below a directory of a running
sandbox is not in the sandbox, and the sandbox does not keep it from being unmounted.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.errors import SetupError, UpstreamError
from broker.helpers.mounts import binding, mounts
from broker.helpers.mounts.namespaces import mount_namespace, mount_table
from broker.helpers.mounts.opened import open_folder
from broker.host.folders.folder_server import PLACE, ROOT
from broker.host.folders.micro_vm import serve
from broker.host.launchers.bubblewrap.arguments import SOCKETS, Box
from broker.session.folders.folder_server import find_sftp_server
from tests.attack.test_folder_server import shell_in_jail
from tests.attack.test_streamed_folders import HERE, Stand
from tests.kit import sftp
from tests.kit.boxes import start_held
from tests.kit.needs import requires
from tests.kit.rulebook import rulebook
from tests.kit.session import starter_of_orders
from tests.kit.shared_mounts import (
    mount_memory,
    namespaces_with_later_mounts,
    run_in_shared_mounts,
    unmount,
)

pytestmark = requires("bwrap", "/usr/bin/python3")


def directories(home, *names):
    """Directories to share, each with a directory to mount on."""
    for name in names:
        (home / name / "vault").mkdir(parents=True)
    return [home / name for name in names]


def refuse_later_mounts(pid, paths):
    """Mount below each directory and on it; ``paths``: by directory, its path in the sandbox."""
    root = Path(f"/proc/{pid}/root")
    for outside, inside in paths.items():
        there = root / str(inside).lstrip("/")
        assert (there / "vault").is_dir()
        for target in (outside / "vault", outside):
            mount_memory(target)
            assert (target / "secret").exists()
            assert not (there / "secret").exists()
            assert os.listdir(there / "vault") == []
            opened = os.open(there / "vault", os.O_RDONLY)
            unmount(target)
            os.close(opened)
    linked = [mount for mount in mount_table(pid) if b"master:" in b" ".join(mount)]
    assert linked == []


async def refuse_earlier_mounts(base, namespace):
    """A directory is not shared while something is mounted below it."""
    (early,) = directories(base / "home", "early")
    mount_memory(early / "vault")
    with closing(open_folder(str(early), base / "home", ())) as folder:
        with pytest.raises(UpstreamError, match="is mounted below it; unmount that"):
            await mounts.attach(namespace, folder, write=False)
        unmount(early / "vault")
        await mounts.attach(namespace, folder, write=False)


async def box_with_binds(base):
    only, write = directories(base / "home", "papers", "work")
    shared, changed = directories(base / "home", "Downloads", "changed")
    sockets = base / "s"
    sockets.mkdir()
    box = Box(("sleep", "600"), sockets, files=(only,), writable=(write,), folders=True)
    started = await start_held(box)
    pidfd = os.pidfd_open(started.leader)
    try:
        await mounts.wait_set_up(started.leader, SOCKETS)
        paths = {only: only, write: write}
        with mount_namespace(started.leader, pidfd) as namespace:
            for path in (shared, changed):
                folder = open_folder(str(path), base / "home", ())
                attached = await mounts.attach(
                    namespace, folder, write=path == changed, base="/folders"
                )
                paths[path] = attached.path
                folder.close()
            await refuse_earlier_mounts(base, namespace)
        refuse_later_mounts(started.leader, paths)
    finally:
        os.close(pidfd)
        await started.end()
        started.child.popen.stdout.close()
        started.child.popen.stderr.close()


def test_later_mount_absent_in_box_and_its_folders(tmp_path):
    """By ``bind_read_only``, ``bind_read_write``, ``[[mounts]]``, ``brokerctl share``."""
    run_in_shared_mounts(partial(trio.run, box_with_binds, tmp_path))


async def served_folder(base):
    (shared,) = directories(base / "home", "Downloads")
    (shared / "file").write_text("x")
    folder = open_folder(str(shared), base / "home", ())
    async with shell_in_jail("import time; time.sleep(600)") as process:
        await serve(0, process, folder, write=False)
        root = Path(f"/proc/{process.pid}/root")
        assert (root / ROOT.lstrip("/") / PLACE / "file").exists()
        for target in (shared / "vault", shared):
            mount_memory(target)
            there = root / ROOT.lstrip("/") / PLACE
            assert not (there / "secret").exists()
            assert os.listdir(there / "vault") == []
            unmount(target)
    folder.close()


def test_later_mount_absent_in_folder_of_micro_vm(tmp_path):
    run_in_shared_mounts(partial(trio.run, served_folder, tmp_path))


def bound_directory(base):
    (shared,) = directories(base, "papers")
    fd = os.open(shared, os.O_PATH)
    binding.bind(*binding.file_words(shared, fd), str(base / "binds/0"))
    os.close(fd)
    there = base / "binds/0"
    assert (there / "vault").is_dir()
    for target in (shared / "vault", shared):
        mount_memory(target)
        assert not (there / "secret").exists()
        assert os.listdir(there / "vault") == []
        unmount(target)


def test_later_mount_absent_in_directory_bound_for_container(tmp_path):
    """As Podman and systemd-nspawn get a path that no sandbox can change."""
    run_in_shared_mounts(partial(bound_directory, tmp_path))


async def streamed_folder(base):
    home = base / "home"
    directories(home, "docs")
    environ = dict(os.environ, HOME=str(home), XDG_STATE_HOME=str(base / "state"))
    async with AsyncExitStack() as stack:
        book = await stack.enter_async_context(rulebook())
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        session = stack.enter_context(starter_of_orders(environ))
        session.host.close()
        stand = Stand(home, book, nursery, session)
        async with stand.shared(write=False) as (path, _):
            guest, stream = await stand.guest()
            assert await guest.names(HERE) == {"file", "vault"}
            for target in (path / "vault", path):
                mount_memory(target)
                assert not namespaces_with_later_mounts()
                assert await guest.names(HERE) == {"file", "vault"}
                assert await guest.names(f"{HERE}/vault") == set()
                secret = await guest.read(f"{HERE}/vault/secret")
                assert secret == sftp.NO_SUCH_FILE
                unmount(target)
            await stream.aclose()


def test_later_mount_absent_in_folder_of_another_machine(tmp_path):
    try:
        find_sftp_server()
    except SetupError as error:
        pytest.skip(str(error))
    run_in_shared_mounts(partial(trio.run, streamed_folder, tmp_path))
