"""Homes on disk: swapped by renames, locked by their users."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from broker.cli.homes.home_copies import HomeCopies
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.files.rename import rename_at
from broker.core.names import SandboxName
from broker.host.homes.sparse import copy_sparse, copy_without_zeros, data_ranges
from broker.host.homes.store import DISK, TREE

MAIL = SandboxName("mail")
WORK = SandboxName("work")
FIRST = SandboxName("first")
A, B = SandboxName("a"), SandboxName("b")


@pytest.fixture
def store(tmp_path: Path) -> HomeCopies:
    return HomeCopies(tmp_path / "homes")


def make(store: HomeCopies, name: SandboxName, content: bytes) -> None:
    with store.new(DISK) as prepared:
        (prepared / DISK).write_bytes(content)
        store.publish(prepared, name)


def content(store: HomeCopies, name: SandboxName) -> bytes:
    return store.require(name).disk.read_bytes()


def hidden(store: HomeCopies) -> list[str]:
    """Entries that are neither a home nor the locks."""
    names = sorted(p.name for p in store.root.iterdir())
    return [n for n in names if n.startswith(".") and n != ".locks"]


def test_a_home_is_made_once(store: HomeCopies):
    make(store, MAIL, b"old")
    with pytest.raises(RefusedError, match="already has a home"):
        make(store, MAIL, b"new")
    assert content(store, MAIL) == b"old"
    assert [home.name for home in store.all()] == [MAIL]
    assert hidden(store) == []
    assert store.root.stat().st_mode & 0o777 == 0o700


def test_a_home_that_was_not_published_leaves_nothing(store: HomeCopies):
    with store.new(DISK) as prepared:
        (prepared / DISK).write_bytes(b"half")
    assert store.find(MAIL) is None
    assert hidden(store) == []


def test_clone_rename_remove(store: HomeCopies):
    make(store, MAIL, b"letters")
    store.snapshot(MAIL, FIRST)
    store.clone(MAIL, WORK)
    assert content(store, WORK) == b"letters"
    assert store.snapshots(WORK) == []
    with pytest.raises(RefusedError, match="already"):
        store.rename(MAIL, WORK)
    store.remove(WORK)
    assert store.find(WORK) is None
    store.rename(MAIL, WORK)
    assert store.find(MAIL) is None
    assert [s.name for s in store.snapshots(WORK)] == [FIRST]
    assert hidden(store) == []


def test_a_snapshot_keeps_its_content(store: HomeCopies):
    make(store, MAIL, b"old")
    store.snapshot(MAIL, FIRST)
    store.require(MAIL).disk.write_bytes(b"new")
    with pytest.raises(RefusedError, match="already"):
        store.snapshot(MAIL, FIRST)
    store.restore(MAIL, FIRST)
    assert content(store, MAIL) == b"old"
    store.require(MAIL).disk.write_bytes(b"newer")
    store.restore(MAIL, FIRST)
    assert content(store, MAIL) == b"old"
    store.remove_snapshot(MAIL, FIRST)
    with pytest.raises(SetupError, match="no snapshot"):
        store.restore(MAIL, FIRST)
    assert hidden(store) == []


def test_a_directory_is_copied_without_following_links(store: HomeCopies, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    with store.new(TREE) as prepared:
        (prepared / TREE).mkdir()
        (prepared / TREE / "link").symlink_to(secret)
        (prepared / TREE / "file").write_text("mine")
        store.publish(prepared, MAIL)
    store.clone(MAIL, WORK)
    copied = store.require(WORK).tree
    assert (copied / "link").is_symlink()
    assert (copied / "file").read_text() == "mine"


def test_a_lock_lives_with_the_process_that_inherits_it(store: HomeCopies):
    make(store, MAIL, b"")
    with store.lock(MAIL) as lock:
        machine = subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, pass_fds=[lock.fd], close_fds=True
        )
    try:
        assert store.in_use(MAIL)
        with pytest.raises(RefusedError, match="in use"):
            store.lock(MAIL)
    finally:
        machine.communicate()
    assert not store.in_use(MAIL)
    store.lock(MAIL).close()


def test_a_broken_meta_file_is_an_error_not_a_missing_home(store: HomeCopies):
    make(store, MAIL, b"data")
    (store.root / MAIL / "current" / "meta.json").write_text("{")
    with pytest.raises(UpstreamError, match=r"meta\.json"):
        store.find(MAIL)


def test_leftovers_are_swept_unless_a_change_is_in_progress(store: HomeCopies):
    make(store, MAIL, b"data")
    (store.root / ".new-dead").mkdir()
    with store.new(DISK):
        assert store.sweep() == 0
    assert store.sweep() == 1
    assert hidden(store) == []
    assert content(store, MAIL) == b"data"


def test_a_copy_keeps_holes(tmp_path: Path):
    source, target = tmp_path / "a", tmp_path / "b"
    with source.open("wb") as file:
        file.seek(8 << 20)
        file.write(b"x" * 5000)
        file.truncate(64 << 20)
    seen: list[tuple[int, int]] = []
    with source.open("rb") as reader, target.open("wb") as writer:
        copy_sparse(
            reader.fileno(), writer.fileno(), lambda done, of: seen.append((done, of))
        )
        ranges = list(data_ranges(reader.fileno()))
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 < 1 << 20
    assert seen[-1][0] == seen[-1][1]
    assert ranges[0][0] <= 8 << 20


@pytest.mark.parametrize("tail", [0, 1, 4095])
def test_a_copy_without_zeros_has_the_same_content(tmp_path: Path, tail: int):
    page = 4096
    source, target = tmp_path / "a", tmp_path / "b"
    # Zeros at the beginning, in the middle, across two pieces of a copy, at the end;
    # one byte at the end of a page that is zeros otherwise.
    filled = (1, 2, 4, (8 << 20) // page + 3)
    with source.open("wb") as file:
        file.write(bytes((8 << 20) + 5 * page + tail))
        for number in filled:
            file.seek((number + 1) * page - 1)
            file.write(b"x")
    with source.open("rb") as reader, target.open("wb") as writer:
        copy_without_zeros(reader.fileno(), writer.fileno())
    assert target.read_bytes() == source.read_bytes()
    with target.open("rb") as file:
        held = sum(end - start for start, end in data_ranges(file.fileno()))
    assert held == len(filled) * page


def test_a_rename_never_overwrites(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError):
        rename_at(tmp_path / "a", tmp_path / "b", 1)


def change_without_end(root: Path, seed: int, ready: int) -> None:
    """Change the homes 'a' and 'b', one change after the other."""
    store = HomeCopies(root)
    store.sweep()
    draw = random.Random(seed)
    os.write(ready, b"x")
    while True:
        for mine, yours in ((A, B), (B, A)):
            if store.find(mine) is not None:
                change(store, mine, yours, draw)


def change(store: HomeCopies, mine: SandboxName, yours: SandboxName, draw) -> None:
    """One change of a home; ``yours`` is the other one."""
    match draw.randrange(5):
        case 0 if store.find(yours) is None:
            store.clone(mine, yours)
        case 1 if store.find(yours) is None:
            store.rename(mine, yours)
        case 2 if store.find(yours) is not None:
            store.remove(mine)
        case 3:
            label = SandboxName(f"s{draw.randrange(1 << 30)}")
            store.snapshot(mine, label)
            store.restore(mine, label)
            store.remove_snapshot(mine, label)
        case 4:
            with store.new(DISK) as new:
                (new / DISK).write_bytes(draw.randbytes(1) * 300000)
                store.replace(new, mine)


def forked(root: Path, seed: int) -> int:
    """Start ``change_without_end`` in a child, which costs no start of Python."""
    ready, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            change_without_end(root, seed, write)
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


def _whole(data: bytes) -> bool:
    """Whether it is what one change wrote, not a mixture or a part."""
    return len(data) == 300000 and len(set(data)) == 1


@pytest.mark.parametrize("seed", range(10))
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(store: HomeCopies, seed: int):
    killed_in_the_middle(store, seed, 2)


@pytest.mark.long
def test_two_hundred_kills_leave_the_old_or_the_new(store: HomeCopies):
    killed_in_the_middle(store, 1000, 200)


def killed_in_the_middle(store: HomeCopies, seed: int, times: int) -> None:
    """Kill a process that never stops changing homes, and look each time."""
    make(store, SandboxName("a"), b"\0" * 300000)
    draw = random.Random(seed)
    for _ in range(times):
        pid = forked(store.root, draw.randrange(1 << 30))
        # It never waits: any moment is in the middle of something.
        time.sleep(draw.random() * 0.15)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended by itself"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        homes = store.all()
        assert homes, "the last home is gone"
        for home in homes:
            assert _whole(home.disk.read_bytes())
            for snapshot in store.snapshots(home.name):
                assert _whole(snapshot.disk.read_bytes())
    store.sweep()
    assert hidden(store) == []


def test_a_full_disk_is_an_error_with_a_hint_and_leaves_nothing(store, monkeypatch):
    make(store, MAIL, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "disk")

    monkeypatch.setattr("broker.cli.homes.home_copies.copy_state", full)
    for change in (store.snapshot, store.clone):
        with pytest.raises(SetupError, match="cannot write to the disk") as caught:
            change(MAIL, FIRST)
        assert "snapshot --remove" in (caught.value.hint or "")
    assert hidden(store) == []
    assert not store.snapshots(MAIL)
    assert content(store, MAIL) == b"old"
