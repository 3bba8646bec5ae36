"""A home that takes more of the disk each time that it is copied."""

from __future__ import annotations

import os

import pytest

from broker.cli.homes.home_copies import HomeCopies
from broker.core.files import trees
from broker.core.files.trees import remove_tree
from broker.core.names import SandboxName
from broker.host.homes.store import TREE
from broker.host.homes.tree import ready_tree

BOX, COPY = SandboxName("box"), SandboxName("copy")
MIB = 1 << 20


@pytest.fixture
def store(tmp_path):
    yield HomeCopies(tmp_path / "homes")
    # pytest recurses, and is closed out.
    assert remove_tree(tmp_path / "homes") is None


@pytest.fixture
def home(store):
    """The directory in which the box writes."""
    return ready_tree(store, BOX).tree


def copies(store):
    """The tree of a clone, of a snapshot, and of what a snapshot brings back."""
    yield store.clone(BOX, COPY).tree
    yield store.snapshot(BOX, SandboxName("first")).directory / TREE
    yield store.restore(BOX, SandboxName("first")).tree


def test_a_file_of_holes_does_not_fill_the_disk(store, home):
    """64 MiB here; the box may as well make it 8 EiB long."""
    with (home / "holes").open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(32 * MIB)
        file.write(b"data")
    for tree in copies(store):
        copy = tree / "holes"
        assert copy.stat().st_size == 64 * MIB
        assert copy.stat().st_blocks * 512 < MIB
        with copy.open("rb") as file:
            file.seek(32 * MIB)
            assert file.read(5) == b"data\0"


def test_a_file_of_many_names_is_copied_once(store, home):
    (home / "large").write_bytes(os.urandom(MIB))
    for number in range(20):
        os.link(home / "large", home / f"name{number}")
    for tree in copies(store):
        assert len({path.stat().st_ino for path in tree.iterdir()}) == 1
        assert (tree / "name7").read_bytes() == (home / "large").read_bytes()


def test_what_a_file_has_besides_its_content_is_copied(store, home):
    (home / "program").write_text("#!/bin/sh")
    (home / "program").chmod(0o750)
    os.utime(home / "program", ns=(10**18, 10**18))
    os.setxattr(home / "program", "user.word", b"kept")
    (home / "link").symlink_to("program")
    for tree in copies(store):
        copy = tree / "program"
        assert copy.stat().st_mode & 0o7777 == 0o750
        assert copy.stat().st_mtime_ns == 10**18
        assert os.getxattr(copy, "user.word") == b"kept"
        assert (tree / "link").readlink().name == "program"


def test_closed_directories_and_files_are_copied_with_their_modes(store, home):
    """Otherwise a program takes snapshots away before it encrypts the home."""
    (home / "closed/inner").mkdir(parents=True)
    (home / "closed/inner/file").write_text("mine")
    (home / "secret").write_text("mine, too")
    modes = {"closed": 0o200, "closed/inner": 0, "closed/inner/file": 0, "secret": 0}
    for name, mode in reversed(modes.items()):
        (home / name).chmod(mode)
    for tree in copies(store):
        for name, mode in modes.items():
            assert (tree / name).stat().st_mode & 0o7777 == mode
            (tree / name).chmod(0o700)
        assert (tree / "secret").read_text() == "mine, too"
        assert (tree / "closed/inner/file").read_text() == "mine"
        for name, mode in reversed(modes.items()):
            (tree / name).chmod(mode)


def test_deep_directories_are_copied(store, home):
    """Deeper than a path is long, and than Python recurses."""
    fd = os.open(home, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=fd)
        inner = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    for tree in copies(store):
        fd = os.open(tree, os.O_RDONLY)
        for _ in range(3000):
            inner = os.open("deep", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        assert os.listdir(fd) == ["last"]
        os.close(fd)


def test_pipes_and_sockets_are_left_out(store, home):
    os.mkfifo(home / "pipe")
    (home / "file").touch()
    for tree in copies(store):
        assert os.listdir(tree) == ["file"]


def test_file_with_names_in_closed_directories_is_copied_once(store, home):
    """Its first copy is in a directory that is closed again by then."""
    (home / "large").write_bytes(os.urandom(MIB))
    for number in range(5):
        folder = home / f"d{number}"
        folder.mkdir()
        os.link(home / "large", folder / "name")
        folder.chmod(0)
    for tree in copies(store):
        inodes = {(tree / "large").stat().st_ino}
        for folder in tree.glob("d?"):
            folder.chmod(0o700)
            inodes.add((folder / "name").stat().st_ino)
        assert len(inodes) == 1


def test_directory_that_cannot_be_entered_ends_the_copy(store, home, monkeypatch):
    """It may have another owner; a snapshot without its content would be incomplete."""
    (home / "a/b").mkdir(parents=True)
    (home / "z").touch()
    open_directory = trees._open_directory

    def refuse(name, above, *, unlock):
        if name == "b":
            raise PermissionError(13, "Permission denied", name)
        return open_directory(name, above, unlock=unlock)

    monkeypatch.setattr(trees, "_open_directory", refuse)
    with pytest.raises(PermissionError):
        store.clone(BOX, COPY)
