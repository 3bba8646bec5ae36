"""Cursors: on disk, whole, one shipper each, and what retention reads in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.errors import SetupError, UpstreamError
from broker.helpers.shipper.cursor import Cursor, held_back, load_cursor
from broker.helpers.shipper.receiver_lock import locked
from broker.helpers.shipper.saved_cursor import save_cursor


def test_there_and_back(tmp_path: Path) -> None:
    cursor = Cursor(name="a", log="00", sequence=7, problem="pro\nblem")
    save_cursor(tmp_path, cursor)
    assert load_cursor(tmp_path, "a") == cursor
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600
    assert load_cursor(tmp_path, "b") == Cursor(name="b")


def test_a_file_that_is_none_is_not_taken_for_a_beginning(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(SetupError, match="does not contain the progress"):
        load_cursor(tmp_path, "a")
    with pytest.raises(SetupError, match="does not contain the progress"):
        held_back(tmp_path, ["a"])


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="cannot save the progress"):
        save_cursor(tmp_path / "none", Cursor(name="a"))


def test_retention_waits_for_the_slowest_that_is_configured(tmp_path: Path) -> None:
    assert held_back(tmp_path, []) is None
    for name, sequence in (("a", 7), ("b", 3), ("gone", 1)):
        save_cursor(tmp_path, Cursor(name=name, sequence=sequence))
    assert held_back(tmp_path, ["a", "b"]) == Cursor(name="b", sequence=3)
    # Configured and never yet served: it has nothing.
    assert held_back(tmp_path, ["a", "new"]) == Cursor(name="new")


def test_one_shipper_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "ship", "a"):
        with (
            pytest.raises(SetupError, match="another process is shipping"),
            locked(tmp_path / "ship", "a"),
        ):
            pass
        with locked(tmp_path / "ship", "b"):
            pass
    with locked(tmp_path / "ship", "a"):
        pass
