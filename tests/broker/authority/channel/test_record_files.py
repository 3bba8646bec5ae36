"""A copy of the records is of the set that the authority has in force, or the old one."""

from __future__ import annotations

import pytest

from broker.authority.channel.record_files import RecordFiles
from broker.core.paths import find_paths
from policy.records.loader import load_records, search_path
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import record


@pytest.fixture
def place():
    with short_directory() as path:
        yield path


def stand(place):
    paths = find_paths(
        {
            "XDG_RUNTIME_DIR": str(place / "run"),
            "HOME": str(place),
            "XDG_CONFIG_DIRS": str(place / "none"),
        }
    )
    folder = paths.config[0] / "sandboxes.d"
    folder.mkdir(parents=True)
    (folder / "work.toml").write_text(record("persistent"))
    return (
        folder,
        RecordFiles(paths, None),
        lambda: load_records(search_path(paths.runtime, paths.config)),
    )


def test_a_set_in_force_is_read(place):
    folder, files, read = stand(place)
    (folder / "vault.toml").write_text(record("disposable"))
    assert set(files.now.records) == {"work"}
    files.follow(read().digest)
    assert set(files.now.records) == {"work", "vault"}


def test_a_set_that_is_not_in_force_is_not_taken(place, capsys):
    """A file was changed again since the authority read it."""
    folder, files, read = stand(place)
    (folder / "vault.toml").write_text(record("disposable"))
    digest = read().digest
    (folder / "third.toml").write_text(record("disposable"))
    files.follow(digest)
    assert set(files.now.records) == {"work"}
    assert "the old copy is used" in capsys.readouterr().err


def test_a_record_with_a_mistake_keeps_its_content(place):
    folder, files, _ = stand(place)
    before = files.now.digest
    (folder / "work.toml").write_text("no record\n")
    files.follow(before)
    assert set(files.now.records) == {"work"}
    assert files.now.broken
