"""``brokerctl cp SANDBOX:PATH DIRECTORY``: only the typed names leave ~/Incoming."""

from __future__ import annotations

import pytest

from broker.cli.transfer.arrivals import Arrivals
from broker.core.errors import RefusedError


@pytest.fixture(name="incoming")
def _incoming(tmp_path):
    folder = tmp_path / "Incoming" / "work"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(name="target")
def _target(tmp_path):
    target = tmp_path / "here"
    target.mkdir()
    return target


def test_asked_names_are_moved_and_others_stay(tmp_path, incoming, target):
    """A sandbox that sends more than was asked for chooses no name here."""
    arrivals = Arrivals(tmp_path)
    (incoming / "notes.txt").write_text("notes")
    (incoming / "Makefile").write_text("hostile")
    assert arrivals.move("work", ["notes.txt"], target) == [target / "notes.txt"]
    assert [path.name for path in target.iterdir()] == ["notes.txt"]
    assert (incoming / "Makefile").exists()


def test_earlier_arrival_of_the_same_name_stays(tmp_path, incoming, target):
    (incoming / "notes.tar.gz").write_text("earlier")
    arrivals = Arrivals(tmp_path)
    (incoming / "notes (1).tar.gz").write_text("now")
    (place,) = arrivals.move("work", ["notes.tar.gz"], target)
    assert place.read_text() == "now"
    assert (incoming / "notes.tar.gz").read_text() == "earlier"


def test_existing_file_is_not_replaced(tmp_path, incoming, target):
    (target / "notes").symlink_to(tmp_path / "missing")
    arrivals = Arrivals(tmp_path)
    (incoming / "notes").write_text("now")
    with pytest.raises(RefusedError, match="was not replaced") as caught:
        arrivals.move("work", ["notes"], target)
    assert str(incoming / "notes") in caught.value.hint


def test_directory_is_moved_whole(tmp_path, incoming, target):
    arrivals = Arrivals(tmp_path)
    (incoming / "photos").mkdir()
    (incoming / "photos" / "a").write_text("a")
    assert arrivals.move("work", ["photos"], target) == [target / "photos"]
    assert (target / "photos" / "a").read_text() == "a"


def test_name_that_did_not_arrive_is_reported(tmp_path, incoming, target):
    arrivals = Arrivals(tmp_path)
    (incoming / "other (1)").write_text("")
    with pytest.raises(
        RefusedError, match="no file or directory named 'notes' has arrived"
    ):
        arrivals.move("work", ["notes"], target)


def test_first_file_of_a_new_sandbox_is_found(tmp_path, target):
    """A disposable that was started for the copy has no directory before."""
    arrivals = Arrivals(tmp_path)
    folder = tmp_path / "Incoming" / "demo-8030"
    folder.mkdir(parents=True)
    (folder / "x").write_text("x")
    assert arrivals.move("demo-8030", ["x"], target) == [target / "x"]
