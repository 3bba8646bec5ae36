"""Attack: entries kept by ``vitrail_files.py store``, on the viewer and in guests.

The sender is hostile, and so is another process that may write the directory; the
receiver is killed, and the disk is full.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from broker.core.files.trees import remove_tree
from broker.helpers.process.spawn import PIPE, spawn
from shims.files.edited import Edited
from shims.files.incoming_files import ORIGIN_ATTRIBUTE, EntryStore, keep
from shims.files.protocol import TransferError, frame
from shims.files.sending import Walk, write_entries
from tests.kit.shims import files_program

KILLS = 30
SEED = 18


def told(*parts):
    """Entries as a hostile sender writes them, past every check of the worker."""
    return io.BytesIO(b"".join(p if isinstance(p, bytes) else frame(p) for p in parts))


def file(*path, size=0):
    return {"type": "file", "path": list(path), "size": size}


def folder(*path):
    return {"type": "dir", "path": list(path)}


END = {"type": "end"}


def seen(top: Path) -> list[str]:
    return sorted(str(p.relative_to(top)) for p in top.rglob("*"))


@pytest.fixture
def top(tmp_path):
    (tmp_path / "outside").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize(
    "path",
    [
        [".."],
        ["a", ".."],
        ["/etc"],
        ["a/b"],
        [""],
        ["."],
        [],
        "a",
        None,
        ["x"] * 17,
        ["a\0"],
        [1],
    ],
    ids=repr,
)
def test_paths_are_checked_by_the_receiver_itself(top, path):
    for kind in ("file", "dir"):
        stream = told(folder("a"), {"type": kind, "path": path, "size": 0}, END)
        with pytest.raises(TransferError):
            keep(stream, EntryStore(str(top), "work", 0))
    assert seen(top) == []
    assert seen(top.parent) == ["in", "outside"]


def test_nothing_is_replaced(top):
    top.mkdir()
    (top / "a.tar.gz").write_text("mine")
    (top / "d").mkdir()
    (top / "d" / "x").write_text("mine")
    stream = told(file("a.tar.gz", size=1), b"y", folder("d"), file("d", "x"), END)
    assert keep(stream, EntryStore(str(top), "work", 0)) == ["a (1).tar.gz", "d (1)"]
    assert (top / "a.tar.gz").read_text() == (top / "d" / "x").read_text() == "mine"


def test_a_link_in_the_way_is_not_followed(top):
    """Another process of the same user has put it there."""
    top.mkdir()
    outside = top.parent / "outside"
    (top / "d").symlink_to(outside)
    (top / "f").symlink_to(outside / "new")
    stream = told(
        folder("d"), file("d", "x", size=1), b"y", file("f", size=1), b"z", END
    )
    assert sorted(keep(stream, EntryStore(str(top), "work", 0))) == ["d (1)", "f (1)"]
    assert list(outside.iterdir()) == []


def test_a_directory_that_becomes_a_link_is_not_followed(top):
    """Swapped while files come."""
    outside = top.parent / "outside"
    store = EntryStore(str(top), "work", 0)
    store.directory(["d"])
    store.directory(["d", "e"])
    (staging,) = top.iterdir()
    (outside / "e").mkdir()
    (staging / "d").rename(staging / "old")
    (staging / "d").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic"):
        store.file(["d", "e", "x"], 1, io.BytesIO(b"y"))
    store.close()
    assert seen(outside) == ["e"]
    assert seen(top) == []


def test_files_are_plain_and_say_where_they_come_from(top):
    stream = told(file("a", size=1), b"y", folder("d"), file("d", "x"), END)
    keep(stream, EntryStore(str(top), "work", 0))
    for path in (top / "a", top / "d/x"):
        assert path.stat().st_mode & 0o7777 == 0o600
        try:
            mark = os.getxattr(path, ORIGIN_ATTRIBUTE)
        except OSError:
            continue  # a file system without them
        assert mark == b"vitrail:work"
    assert (top / "d").stat().st_mode & 0o7777 == 0o700


def test_an_endless_or_sparse_file_is_refused_by_the_free_space(top):
    """No byte is read: the size alone is more than there is room for."""
    stream = told(folder("d"), file("d", "x", size=1 << 60), bytes(1 << 20), END)
    before = os.statvfs(top.parent).f_bavail
    with pytest.raises(TransferError, match="no disk space"):
        keep(stream, EntryStore(str(top), "work"))
    assert seen(top) == []
    assert before - os.statvfs(top.parent).f_bavail < 1 << 20


def test_small_files_together_are_refused_by_the_free_space(top, monkeypatch):
    """Each of them fits; the free space is not looked up for each."""
    looked = []

    def nearly_full(fd):
        looked.append(fd)
        return SimpleNamespace(f_bavail=64 - len(seen(top)), f_frsize=4096)

    monkeypatch.setattr(os, "fstatvfs", nearly_full)
    names = [f"{number:03}" for number in range(100)]
    parts = [part for name in names for part in (file(name, size=1000), bytes(1000))]
    with pytest.raises(TransferError, match="no disk space"):
        keep(told(*parts, END), EntryStore(str(top), "work", 0))
    assert seen(top) == []
    assert 1 < len(looked) < 10


def test_a_sparse_file_counts_with_its_whole_size(top, tmp_path):
    """A file of no blocks that claims to be huge is refused before its first byte."""
    bomb = tmp_path / "bomb"
    with bomb.open("wb") as hollow:
        hollow.truncate(1 << 42)
    assert bomb.stat().st_blocks == 0
    walk = Walk([str(bomb)])
    assert walk.size == 1 << 42
    stream = told(file("bomb", size=walk.size), bytes(1 << 16))
    with pytest.raises(TransferError, match="no disk space"):
        keep(stream, EntryStore(str(top), "work"))
    assert seen(top) == []


def test_a_full_disk_leaves_nothing(top, monkeypatch):
    def full(fd, data):
        raise OSError(28, "No space left on device")

    stream = told(folder("d"), file("d", "x", size=9), b"123456789", END)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(TransferError, match="No space left"):
        keep(stream, EntryStore(str(top), "work", 0))
    assert seen(top) == []


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (folder("d"),),
        (file("a", size=5), b"abc"),
        (folder("d"), file("d", "a", size=5), b"abc"),
        (file("a", size=1), b"y"),
        (b"\xff\xff\xff\xff",),
        (b"\1\0\0\0x",),
        (frame(file("a", size=1))[:7],),
        ({"type": "link", "path": ["a"], "to": "/etc/passwd"}, END),
        ({"type": "file", "path": ["a"], "size": "1"}, END),
        ({"type": "file", "path": ["a"], "size": True}, END),
    ],
    ids=range(11),
)
def test_a_cut_or_malformed_transfer_leaves_nothing(top, parts):
    with pytest.raises(TransferError):
        keep(told(*parts), EntryStore(str(top), "work", 0))
    assert seen(top) == []


def test_many_files_need_few_descriptors(top):
    count = 2000
    before = len(os.listdir("/proc/self/fd"))
    parts = [file(f"f{n}") for n in range(count)]
    assert len(keep(told(*parts, END), EntryStore(str(top), "work", 0))) == count
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(seen(top)) == count


async def test_a_receiver_that_is_killed_leaves_nothing_visible(top):
    """At random points; the next one removes the unfinished entries."""
    source = top.parent / "source"
    top.mkdir()
    (source / "d").mkdir(parents=True)
    for number in range(300):
        (source / "d" / str(number)).write_bytes(bytes(5000))
    out = io.BytesIO()
    write_entries(Walk([str(source)]), out)
    data = out.getvalue()
    dice = random.Random(SEED)
    argv = [
        sys.executable,
        "-I",
        files_program(),
        "store",
        str(top),
        "work",
        "0",
    ]
    whole = 0
    for _ in range(KILLS):
        child = spawn(argv, stdin=PIPE, stdout=PIPE)
        with child.popen.stdin as pipe, child.popen.stdout:
            os.set_blocking(pipe.fileno(), True)
            cut = dice.randrange(len(data))
            try:
                await trio.to_thread.run_sync(os.write, pipe.fileno(), data[:cut])
            finally:
                child.kill(signal.SIGKILL)
                await child.wait()
        visible = [p.name for p in top.iterdir() if not p.name.startswith(".")]
        assert visible == []
        whole += len(list(top.iterdir()))
    assert whole, "no kill came while something was half done"
    EntryStore(str(top), "work", 0).close()
    assert seen(top) == []


def test_a_directory_of_the_persons_is_not_taken_for_a_left_over(top):
    (top / ".vitrail-settings/sub").mkdir(parents=True)
    EntryStore(str(top), "work", 0).close()
    assert seen(top) == [".vitrail-settings", ".vitrail-settings/sub"]


def test_a_directory_that_is_too_deep_to_be_removed_ends_no_transfer(top):
    """Made by a sandbox that may write there."""
    name = f".vitrail-{'0' * 16}"
    place = top / name
    place.mkdir(parents=True)
    fd = os.open(place, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    try:
        assert keep(
            told(file("a", size=1), b"x", END), EntryStore(str(top), "w", 0)
        ) == ["a"]
    finally:
        remove_tree(place)


def edited(path, data, meanwhile=None):
    """The kept content when a file of this content comes back."""
    way = Edited(str(path))
    if meanwhile is not None:
        meanwhile()
    entry = frame({"type": "file", "path": ["x"], "size": len(data)})
    return way.replace(io.BytesIO(entry + data + frame({"type": "end"})), "work")


def test_a_returned_file_that_is_the_same_leaves_no_version(tmp_path):
    path = tmp_path / "a"
    path.write_text("x")
    before = path.stat().st_ino
    assert "unchanged" in edited(path, b"x")
    assert (path.stat().st_ino, os.listdir(tmp_path)) == (before, ["a"])


def test_a_returned_file_goes_through_no_link_that_was_put_there_meanwhile(tmp_path):
    path, secret = tmp_path / "a", tmp_path / "secret"
    path.write_text("x")
    secret.write_text("secret")

    def link():
        path.unlink()
        path.symlink_to(secret)

    assert "was also changed here" in edited(path, b"new", link)
    assert (secret.read_text(), path.is_symlink()) == ("secret", True)
    assert (tmp_path / "a (edited)").read_text() == "new"


@pytest.mark.parametrize("cut", [3, 20, -20, -1])
def test_a_returned_file_that_breaks_off_leaves_nothing(tmp_path, cut):
    path = tmp_path / "a"
    path.write_text("x")
    way = Edited(str(path))
    data = frame({"type": "file", "path": ["x"], "size": 9}) + b"different"
    data += frame({"type": "end"})
    with pytest.raises(TransferError):
        way.replace(io.BytesIO(data[:cut]), "work")
    assert (path.read_text(), os.listdir(tmp_path)) == ("x", ["a"])


def test_a_returned_program_is_not_executable(tmp_path):
    path = tmp_path / "a"
    path.write_text("x")
    path.chmod(0o4755)
    edited(path, b"new")
    assert path.stat().st_mode & 0o7777 == 0o644


class Counted(io.BytesIO):
    """Counts the bytes asked for at one time; a negative size asks for all."""

    largest = 0

    def read(self, size=-1):
        """Read, and remember the size."""
        self.largest = max(self.largest, size if size >= 0 else sys.maxsize)
        return super().read(size)


@pytest.mark.parametrize("size", [-1, -(1 << 62), True, 1.5, None, "1"])
def test_a_size_that_is_none_has_nothing_read(tmp_path, size):
    """A negative one would be read to the end of the stream, into memory."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    sent = told(file("a", size=size), b"x" * (1 << 20)).getvalue()
    for receive in (
        lambda source: keep(source, EntryStore(str(tmp_path / "in"), "work", 0)),
        lambda source: Edited(str(mine)).replace(source, "work"),
    ):
        source = Counted(sent)
        with pytest.raises(TransferError):
            receive(source)
        assert source.largest < 1 << 16
    assert sorted(os.listdir(tmp_path)) == ["in", "mine"]
    assert not os.listdir(tmp_path / "in")


def test_a_returned_file_is_refused_by_the_free_space(tmp_path):
    """No byte is read: a worker that was taken over checks no size."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    source = Counted(
        told(file("mine", size=(1 << 60) + (1 << 25)), bytes(1 << 20)).getvalue()
    )
    with pytest.raises(TransferError, match="no disk space"):
        Edited(str(mine)).replace(source, "work")
    assert source.largest < 1 << 16
    assert os.listdir(tmp_path) == ["mine"]


def test_names_that_are_no_text_are_refused(tmp_path):
    for name in ("\ud800", "a\udcff"):
        entry = b'{"type": "dir", "path": ["%s"]}' % name.encode("unicode_escape")
        sent = len(entry).to_bytes(4, "little") + entry
        with pytest.raises(TransferError):
            keep(io.BytesIO(sent), EntryStore(str(tmp_path), "work", 0))
    assert not os.listdir(tmp_path)
