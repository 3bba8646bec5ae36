"""Attack: hard links that are made, and put in a file's place, while files are copied.

A hard link is a second name of a file: bytes written through one name are in the
other, and so are its mode and attributes.  The attacker may write the directory that is
read or written, as a sandbox with a shared folder, or the target's own programs.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

import pytest

from shims.files.edited import Edited
from shims.files.incoming_files import STAGED, UNNAMED, EntryStore, keep
from shims.files.protocol import TransferError, frame
from shims.files.sending import Walk, write_entries

SECRET = b"a key of the person's"


def entries(*parts):
    """A stream of entries; a function among them is called when it is reached."""
    return Stream(
        [p if callable(p) or isinstance(p, bytes) else frame(p) for p in parts]
    )


class Stream(io.RawIOBase):
    """Bytes in order, with actions of the attacker between them."""

    def __init__(self, parts):
        self._parts = list(parts)

    def readable(self):
        return True

    def readinto(self, buffer):
        while self._parts and (callable(self._parts[0]) or not self._parts[0]):
            part = self._parts.pop(0)
            if callable(part):
                part()
        if not self._parts:
            return 0
        data = self._parts[0][: len(buffer)]
        self._parts[0] = self._parts[0][len(data) :]
        buffer[: len(data)] = data
        return len(data)

    def read(self, size=-1):
        data = bytearray()
        while len(data) < size:
            piece = bytearray(size - len(data))
            got = self.readinto(piece)
            if not got:
                break
            data += piece[:got]
        return bytes(data)


def file(*path, size=0):
    return {"type": "file", "path": list(path), "size": size}


def folder(*path):
    return {"type": "dir", "path": list(path)}


END = {"type": "end"}


@pytest.fixture
def top(tmp_path):
    top = tmp_path / "in"
    top.mkdir()
    return top


@pytest.fixture
def secret(tmp_path):
    """A file of the person's that no byte, mode or attribute may reach."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o640)
    yield path
    facts = path.stat()
    assert path.read_bytes() == SECRET
    assert stat.S_IMODE(facts.st_mode) == 0o640
    assert os.listxattr(path) == []


def staged(top: Path) -> Path:
    (found,) = (p for p in top.iterdir() if STAGED.fullmatch(p.name))
    return found


# -- the target's directory -----------------------------------------------------------


def test_a_hard_link_at_the_final_name_is_not_replaced_or_written_to(top, secret):
    def link():
        os.link(secret, top / "a")
        os.link(secret, top / "d")

    source = entries(file("a", size=3), b"new", folder("d"), link, END)
    assert keep(source, EntryStore(str(top), "work", 0)) == ["a (1)", "d (1)"]
    assert (top / "a (1)").read_bytes() == b"new"
    assert os.path.samefile(top / "a", secret)
    assert (top / "a").stat().st_nlink == 3


def test_a_hard_link_in_a_staged_files_place_is_not_written_to(top, secret):
    """In the middle of its content; the rest goes to the file that was opened."""

    def swap():
        place = staged(top) / "d/a"
        place.unlink()
        os.link(secret, place)

    source = entries(folder("d"), file("d", "a", size=6), b"one", swap, b"two", END)
    keep(source, EntryStore(str(top), "work", 0))
    assert os.path.samefile(top / "d/a", secret)


def test_a_hard_link_that_waits_at_a_staged_name_breaks_the_copy_off(top, secret):
    source = entries(
        folder("d"),
        lambda: os.link(secret, staged(top) / "d/a"),
        file("d", "a", size=3),
        b"new",
        END,
    )
    with pytest.raises(TransferError, match="File exists"):
        keep(source, EntryStore(str(top), "work", 0))
    assert list(top.iterdir()) == []


def test_a_second_name_of_a_staged_file_gives_no_more_rights(top, tmp_path):
    def link():
        os.link(staged(top) / "d/a", tmp_path / "second")

    source = entries(folder("d"), file("d", "a", size=3), b"new", link, END)
    keep(source, EntryStore(str(top), "work", 0))
    facts = (tmp_path / "second").stat()
    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert facts.st_nlink == 2


def test_a_file_without_a_name_cannot_be_linked_before_its_end(top):
    """Up to UNNAMED files of a transfer have no name that an attacker could link."""
    names: list[str] = []
    parts = [(file(f"f{i}", size=1), b"x") for i in range(UNNAMED)]
    flat = [part for pair in parts for part in pair]
    keep(
        entries(*flat, lambda: names.extend(os.listdir(top)), END),
        EntryStore(str(top), "work", 0),
    )
    assert names == []
    assert len(list(top.iterdir())) == UNNAMED


# -- the source's directory -----------------------------------------------------------


def test_names_of_one_file_arrive_as_files_of_their_own(top, tmp_path):
    source = tmp_path / "from"
    source.mkdir()
    (source / "a").write_bytes(b"content")
    for name in ("b", "c"):
        os.link(source / "a", source / name)
    out = io.BytesIO()
    walk = Walk([str(source)])
    assert walk.size == 3 * len(b"content")
    write_entries(walk, out)
    out.seek(0)
    keep(io.BufferedReader(out), EntryStore(str(top), "work", 0))
    (top / "from/a").write_bytes(b"changed")
    assert (top / "from/b").read_bytes() == b"content"
    assert {p.stat().st_nlink for p in (top / "from").iterdir()} == {1}


@pytest.mark.parametrize("other", [b"short", b"longer than it was announced"])
def test_a_hard_link_in_a_listed_files_place_keeps_the_announced_size(tmp_path, other):
    path, instead = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"announced")
    instead.write_bytes(other)
    walk = Walk([str(path)])
    path.unlink()
    os.link(instead, path)
    out = io.BytesIO()
    if len(other) < len(b"announced"):
        with pytest.raises(TransferError, match="truncated during the transfer"):
            write_entries(walk, out)
    else:
        write_entries(walk, out)
        assert other[:9] in out.getvalue()
        assert other not in out.getvalue()


# -- a file that is edited and returns ------------------------------------------------


def back(data: bytes, meanwhile=lambda: None) -> Stream:
    return entries(file("x", size=len(data)), data, meanwhile, END)


def test_the_other_name_of_an_edited_file_keeps_its_content(tmp_path, secret):
    path = tmp_path / "a"
    os.link(secret, path)
    said = Edited(str(path)).replace(back(b"new"), "work")
    assert "replaced" in said
    assert path.read_bytes() == b"new"
    assert not os.path.samefile(path, secret)


def test_a_returned_file_has_no_name_before_its_end(tmp_path, secret):
    """None that an attacker could exchange, or that a killed process would leave."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    before = set(os.listdir(tmp_path))
    seen: list[str] = []
    source = back(b"new", lambda: seen.extend(os.listdir(tmp_path)))
    Edited(str(path)).replace(source, "work")
    assert set(seen) == before
    assert set(os.listdir(tmp_path)) == {*before, "a~"}


def test_a_hard_link_in_the_place_of_the_returned_file_is_not_changed(
    tmp_path, secret, monkeypatch
):
    """Where the file system has no files without a name."""
    real = os.open

    def no_unnamed(path, flags, *words, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *words, **more)

    monkeypatch.setattr(os, "open", no_unnamed)
    path = tmp_path / "a"
    path.write_bytes(b"old")
    way = Edited(str(path))

    def swap():
        place = staged(tmp_path)
        place.unlink()
        os.link(secret, place)

    way.replace(back(b"new", swap), "work")
    assert (tmp_path / "a~").read_bytes() == b"old"


def test_a_hard_link_in_the_place_of_an_edited_file_is_kept(tmp_path, secret):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    way = Edited(str(path))

    def swap():
        path.unlink()
        os.link(secret, path)

    assert "was also changed here" in way.replace(back(b"new", swap), "work")
    assert os.path.samefile(path, secret)
    assert (tmp_path / "a (edited)").read_bytes() == b"new"
