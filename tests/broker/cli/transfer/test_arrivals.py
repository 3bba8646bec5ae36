"""``brokerctl cp SANDBOX:PATH DIRECTORY``: only the typed names leave ~/Incoming."""

from __future__ import annotations

import errno

import pytest

from broker.cli.transfer import arrivals as module
from broker.cli.transfer.arrivals import Arrivals
from broker.core.errors import RefusedError


@pytest.fixture(name="incoming")
def _incoming(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "Incoming" / "work"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(name="target")
def _target(tmp_path):
    target = tmp_path / "here"
    target.mkdir()
    return target


def move(arrivals, name, source="work"):
    """Move one arrival, as ``brokerctl cp`` does; return its path."""
    (path,) = arrivals.move(source, [name])
    return path


def test_asked_names_are_moved_and_others_stay(tmp_path, incoming, target):
    """A sandbox that sends more than was asked for chooses no name here."""
    arrivals = Arrivals(target, [])
    (incoming / "notes.txt").write_text("notes")
    (incoming / "Makefile").write_text("hostile")
    assert move(arrivals, "notes.txt") == target / "notes.txt"
    assert [path.name for path in target.iterdir()] == ["notes.txt"]
    assert (incoming / "Makefile").exists()


def test_earlier_arrival_of_the_same_name_stays(tmp_path, incoming, target):
    (incoming / "notes.tar.gz").write_text("earlier")
    arrivals = Arrivals(target, [])
    (incoming / "notes (1).tar.gz").write_text("now")
    place = move(arrivals, "notes.tar.gz")
    assert place.read_text() == "now"
    assert (incoming / "notes.tar.gz").read_text() == "earlier"


def test_existing_file_is_not_replaced(tmp_path, incoming, target):
    (target / "notes").symlink_to(tmp_path / "missing")
    arrivals = Arrivals(target, [])
    (incoming / "notes").write_text("now")
    with pytest.raises(RefusedError, match="was not replaced") as caught:
        move(arrivals, "notes")
    assert str(incoming / "notes") in caught.value.hint


def test_directory_is_moved_whole(tmp_path, incoming, target):
    arrivals = Arrivals(target, [])
    (incoming / "photos").mkdir()
    (incoming / "photos" / "a").write_text("a")
    assert move(arrivals, "photos") == target / "photos"
    assert (target / "photos" / "a").read_text() == "a"


def test_name_that_did_not_arrive_is_reported(tmp_path, incoming, target):
    arrivals = Arrivals(target, [])
    (incoming / "other (1)").write_text("")
    with pytest.raises(
        RefusedError, match="no file or directory named 'notes' has arrived"
    ):
        move(arrivals, "notes")


def test_first_file_of_a_new_sandbox_is_found(tmp_path, target, monkeypatch):
    """A disposable that was started for the copy has no directory before."""
    monkeypatch.setenv("HOME", str(tmp_path))
    arrivals = Arrivals(target, [])
    folder = tmp_path / "Incoming" / "demo-8030"
    folder.mkdir(parents=True)
    (folder / "x").write_text("x")
    assert move(arrivals, "x", "demo-8030") == target / "x"


def test_exchanged_target_keeps_its_files(tmp_path, incoming, target):
    """A sandbox that may write above the target renames it while the copy runs.

    Otherwise it chooses a directory for a file of its content.
    """
    private = tmp_path / ".config/autostart"
    private.mkdir(parents=True)
    arrivals = Arrivals(target, [])
    target.rename(tmp_path / "gone")
    target.symlink_to(private)
    (incoming / "app.desktop").write_text("hostile")
    assert arrivals.move("work", ["app.desktop"]) == [tmp_path / "gone/app.desktop"]
    assert list(private.iterdir()) == []


def test_arrivals_denied_where_a_sandbox_can_exchange_them(tmp_path, incoming, target):
    """A link in the place of an arrival would be moved to the user's directory."""
    arrivals = Arrivals(target, [tmp_path / "Incoming"])
    (incoming / "notes").write_text("now")
    with pytest.raises(RefusedError, match="a sandbox can write to"):
        move(arrivals, "notes")
    assert list(target.iterdir()) == []


def across(monkeypatch):
    """Have the target be on another file system."""

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(module, "rename_at", refuse)


def test_copy_to_another_file_system_is_complete(
    tmp_path, incoming, target, monkeypatch
):
    across(monkeypatch)
    arrivals = Arrivals(target, [])
    (incoming / "photos/2026").mkdir(parents=True)
    (incoming / "photos/2026/a").write_text("a")
    (incoming / "notes").write_text("notes")
    assert move(arrivals, "photos") == target / "photos"
    assert move(arrivals, "notes") == target / "notes"
    assert (target / "photos/2026/a").read_text() == "a"
    assert (target / "notes").read_text() == "notes"
    assert list(incoming.iterdir()) == []


def test_copy_to_another_file_system_replaces_nothing(
    tmp_path, incoming, target, monkeypatch
):
    """Not even by a link that a sandbox has put there."""
    across(monkeypatch)
    arrivals = Arrivals(target, [])
    (target / "notes").symlink_to(tmp_path / "chosen")
    (incoming / "notes").write_text("now")
    with pytest.raises(RefusedError, match="was not replaced"):
        move(arrivals, "notes")
    assert not (tmp_path / "chosen").exists()
    assert (incoming / "notes").exists()
