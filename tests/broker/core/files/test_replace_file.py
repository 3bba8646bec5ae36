"""A file is replaced whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from broker.core.files import replace_file as module
from broker.core.files.replace_file import replace_file


def test_a_new_file_has_its_content_and_mode(tmp_path):
    old = os.umask(0o077)
    try:
        replace_file(tmp_path / "a", b"one", mode=0o755)
    finally:
        os.umask(old)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "other").write_bytes(b"precious")
    (tmp_path / "a").symlink_to("other")
    replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "other").read_bytes() == b"precious"
    assert not (tmp_path / "a").is_symlink()


def test_a_failed_write_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    """Not the name under which it is written first."""
    target = tmp_path / "none" / "a"
    with pytest.raises(FileNotFoundError) as caught:
        replace_file(target, b"new")
    assert caught.value.filename == str(target)
    with pytest.raises(IsADirectoryError) as caught:
        replace_file(Path("/"), b"new")
    assert caught.value.filename == "/"


def test_two_writers_do_not_mix_their_bytes(tmp_path):
    path = tmp_path / "a"
    contents = [bytes([65 + n]) * 100_000 for n in range(4)]

    def write(content):
        for _ in range(10):
            replace_file(path, content)

    writers = [threading.Thread(target=write, args=(c,)) for c in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert path.read_bytes() in contents
    for writer in writers:
        writer.join()
    assert os.listdir(tmp_path) == ["a"]
