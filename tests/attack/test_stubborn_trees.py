"""Directories that a sandbox has made so that they cannot be removed or read."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from broker.cli.homes.home_copies import HomeCopies
from broker.core.files.sandbox_logs import prune_logs
from broker.core.files.trees import disk_usage, remove_tree
from broker.core.names import SandboxName
from broker.host.homes.renaming import recover
from broker.host.homes.store import TREE
from broker.host.homes.tree import ready_tree
from broker.host.launchers.libvirt.guests import LibvirtMachine
from broker.host.vmm.launcher import clean_leftovers
from broker.host.vmm.running import Vm
from broker.host.vmm.vm_state import STATE_FILE, remove_files
from broker.host.vmm.vsock_backend import VSOCK_DIRECTORY

BOX, OTHER = SandboxName("box"), SandboxName("other")
DEEP = 1500
"""More than Python's recursion limit."""


def _closed(place):
    """A directory that its owner may not enter, with something in it."""
    inner = place / "closed" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    inner.chmod(0o500)
    inner.parent.chmod(0)


def _deep(place):
    """Directories in each other, deeper than a path can be long."""
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chdir(place)
        for _ in range(DEEP):
            os.mkdir("directory")
            os.chdir("directory")
        with open("file", "w", encoding="ascii") as file:
            file.write("x")
    finally:
        os.fchdir(before)
        os.close(before)


def _special(place):
    """A FIFO, a socket without a listener, a link out of the tree."""
    os.mkfifo(place / "fifo")
    folder = os.open(place, os.O_PATH | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/fd/{folder}/socket")  # its own path may be too long
    os.close(folder)
    (place / "link").symlink_to("/")


@pytest.fixture(params=[_closed, _deep, _special])
def hostile(request, tmp_path):
    """What fills a directory; whatever a failure leaves is removed."""
    yield request.param
    subprocess.run(["chmod", "-R", "u+rwx", str(tmp_path)], check=False)
    subprocess.run(["rm", "-rf", str(tmp_path / "homes")], check=True)


def test_a_home_that_resists_is_removed_and_the_others_are_usable(hostile, tmp_path):
    store = HomeCopies(tmp_path / "homes")
    hostile(ready_tree(store, BOX).tree)
    other = ready_tree(store, OTHER)
    store.require(BOX).used()  # of the readable part, and no error

    store.remove(BOX)
    assert list(store.root.glob(".[no]*")) == [], "nothing of it is left"
    recover(store)
    assert store.find(OTHER) == other


def test_a_leftover_that_stays_keeps_no_other_sandbox_from_starting(
    tmp_path, monkeypatch, capsys
):
    store = HomeCopies(tmp_path / "homes")
    ready_tree(store, OTHER)
    (store.root / ".new-left").mkdir()
    refusal = OSError(1, "Operation not permitted", "file")
    monkeypatch.setattr("broker.host.homes.store.remove_tree", lambda _: refusal)
    recover(store)
    assert ".new-left" in capsys.readouterr().err
    assert store.find(OTHER) is not None


@pytest.mark.parametrize("name", ["vm.vsock", "vm.vsock_6501", "other"])
def test_what_a_jailed_process_made_among_its_sockets_goes(hostile, name, tmp_path):
    """vhost-device-vsock, taken over: it writes to the directory of the sockets."""
    directory = tmp_path / "homes" / "machine"
    (directory / VSOCK_DIRECTORY / name).mkdir(parents=True)
    hostile(directory / VSOCK_DIRECTORY / name)
    (directory / STATE_FILE).write_text("{}")
    remove_files(directory)
    assert not directory.exists()


@pytest.fixture(name="slow")
def _slow(monkeypatch):
    """A removal that takes until another task has run, as of 400,000 entries.

    That many have room in a person's runtime directory; they take 8 seconds.
    """
    run = threading.Event()

    def slow(path):
        assert run.wait(10), "all sandboxes wait for it"
        return remove_tree(path)

    monkeypatch.setattr("broker.host.vmm.vm_state.remove_tree", slow)
    monkeypatch.setattr("broker.host.launchers.libvirt.guests.remove_tree", slow)
    return run


@asynccontextmanager
async def _runs(event):
    async def run():
        event.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield


async def test_a_filled_directory_of_a_machine_holds_up_no_other(slow, tmp_path):
    (tmp_path / "vm" / VSOCK_DIRECTORY).mkdir(parents=True)

    async def end(_grace):
        """No other task runs meanwhile."""

    gone = SimpleNamespace(kill=lambda: None, close=lambda: None, end=end)
    vm = Vm(tmp_path / "vm", None, vmm=gone, helpers=(), console=gone)
    async with _runs(slow):
        await vm.close()
    assert not (tmp_path / "vm").exists()


async def test_a_filled_directory_that_is_left_holds_up_no_other(slow, tmp_path):
    (tmp_path / "vm" / VSOCK_DIRECTORY).mkdir(parents=True)
    async with _runs(slow):
        await clean_leftovers(tmp_path / "vm")
    assert not (tmp_path / "vm").exists()


async def test_a_filled_directory_of_a_domain_holds_up_no_other(slow, tmp_path):
    (tmp_path / "domain" / VSOCK_DIRECTORY).mkdir(parents=True)
    held = SimpleNamespace(close=lambda: None)
    domain = LibvirtMachine(
        None, held, 1, directory=tmp_path / "domain", backend=None, folder_servers={}
    )
    async with _runs(slow):
        await domain.close()
    assert not (tmp_path / "domain").exists()


def test_logs_that_resist_end_no_later_broker(hostile, tmp_path):
    """A viewer that was taken over made them; each start of a machine removes old logs."""
    place = tmp_path / "homes" / "old"
    place.mkdir(parents=True)
    hostile(place)
    prune_logs(place.parent, keep=0)
    assert not place.exists()


def test_a_copy_leaves_pipes_and_sockets_out(tmp_path):
    store = HomeCopies(tmp_path / "homes")
    tree = ready_tree(store, BOX).tree
    (tree / "kept").write_text("content")
    _special(tree)
    copy = store.snapshot(BOX, SandboxName("s1")).directory / TREE
    assert sorted(path.name for path in copy.iterdir()) == ["kept", "link"]
    assert (copy / "link").is_symlink()


def test_removal_never_follows_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(outside)
    assert remove_tree(top) is None
    assert not top.exists()
    assert (outside / "file").exists()
    # The top itself, too: a name that a sandbox may have replaced.
    top.symlink_to(outside)
    assert remove_tree(top) is not None
    assert (outside / "file").exists()


def test_the_first_error_is_returned_and_the_rest_goes(tmp_path, monkeypatch):
    top = tmp_path / "top"
    (top / "kept").mkdir(parents=True)
    for name in ("kept/stays", "goes", "kept/goes"):
        (top / name).write_text("x")
    unlink = os.unlink

    def refuse(path, *, dir_fd=None):
        if path == "stays":
            raise PermissionError(1, "Operation not permitted", path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    error = remove_tree(top)
    assert isinstance(error, PermissionError)
    assert sorted(p.name for p in top.rglob("*")) == ["kept", "stays"]


def test_a_directory_that_is_moved_meanwhile_leads_nowhere_else(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    (outside / "place").mkdir(parents=True)
    (outside / "kept").mkdir()
    top = tmp_path / "top"
    (top / "in" / "moved").mkdir(parents=True)
    (top / "in" / "moved" / "file").write_text("x")
    unlink = os.unlink

    def move(path, *, dir_fd=None):
        unlink(path, dir_fd=dir_fd)
        (top / "in" / "moved").rename(outside / "place" / "moved")

    monkeypatch.setattr(os, "unlink", move)
    error = remove_tree(top)
    assert error is not None
    assert "moved" in str(error)
    assert (outside / "place" / "moved").exists()
    assert (outside / "kept").exists()


def test_nothing_to_remove_is_no_error(tmp_path):
    assert remove_tree(tmp_path / "none") is None


def test_usage_counts_blocks_and_skips_unreadable_directories(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 8192)
    before = disk_usage(tmp_path)
    assert before >= 8192
    _closed(tmp_path)
    assert disk_usage(tmp_path) >= before
    assert (tmp_path / "closed").stat().st_mode & 0o777 == 0, "reading changes nothing"
    remove_tree(tmp_path / "closed")
