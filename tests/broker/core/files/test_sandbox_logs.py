"""Whose logs are kept, and whose go."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.errors import UpstreamError
from broker.core.files.sandbox_logs import KEPT, prune_logs
from tests.kit.link.roles import old_logs


@pytest.mark.parametrize("over", [0, 1, 5])
def test_the_newest_logs_are_kept(tmp_path, over):
    directory = old_logs(tmp_path / "logs", KEPT + over)
    prune_logs(directory, keep=KEPT)
    left = sorted(path.name for path in directory.iterdir())
    assert len(left) == KEPT
    assert left[0] == f"web-{1000 + over}", "the oldest went"


def test_the_logs_of_what_runs_are_kept_however_old(tmp_path):
    directory = old_logs(tmp_path / "logs", 5)
    prune_logs(directory, keep=1, running=lambda: {"web-1000", "web-1002"})
    left = sorted(path.name for path in directory.iterdir())
    assert left == ["web-1000", "web-1002", "web-1004"]


def test_no_logs_yet(tmp_path):
    prune_logs(tmp_path / "logs", keep=1)


def test_logs_that_cannot_be_listed(tmp_path):
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(UpstreamError, match="Not a directory"):
        prune_logs(tmp_path / "logs", keep=1)


def test_what_is_no_directory_is_removed_and_counts_as_no_log(tmp_path):
    """A viewer that was taken over left 600,000 files: each start looked at each."""
    directory = old_logs(tmp_path / "logs", 3)
    kept = tmp_path / "kept"
    kept.mkdir()
    for number in range(KEPT):
        (directory / f"{number}").touch()
    (directory / "link").symlink_to(kept)
    (directory / "runs").touch()
    prune_logs(directory, keep=KEPT, running=lambda: {"runs"})
    left = sorted(path.name for path in directory.iterdir())
    assert left == ["web-1000", "web-1001", "web-1002"]
    assert kept.is_dir()


def test_another_process_removes_at_the_same_time(tmp_path, monkeypatch):
    directory = old_logs(tmp_path / "logs", 3)
    for number in range(3):
        (directory / f"{number}").touch()
    unlink = Path.unlink

    def twice(path):
        unlink(path)
        unlink(path)

    monkeypatch.setattr(Path, "unlink", twice)
    prune_logs(directory, keep=1)
    left = sorted(path.name for path in directory.iterdir())
    assert left == ["web-1002"]
