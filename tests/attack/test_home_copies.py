"""A home that takes more of the disk each time that it is copied."""

from __future__ import annotations

import os

import pytest

from broker.cli.homes.home_copies import HomeCopies
from broker.core.names import SandboxName
from broker.host.homes.store import TREE
from broker.host.homes.tree import ready_tree

BOX, COPY = SandboxName("box"), SandboxName("copy")
MIB = 1 << 20


@pytest.fixture
def store(tmp_path):
    return HomeCopies(tmp_path / "homes")


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
