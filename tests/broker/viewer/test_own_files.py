"""The viewer's own files, for its Landlock rules."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

import pytest

from broker.authority.rules import rule_path
from broker.core.paths import find_paths
from broker.viewer.own_files import own_files
from policy.records.loader import search_path


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    # Short: sockets' paths are.
    with TemporaryDirectory(dir="/tmp") as run:
        monkeypatch.setenv("XDG_RUNTIME_DIR", run)
        yield find_paths()


def test_directories_to_write_to_are_made_for_the_user_alone(paths):
    for directory in own_files(paths).write:
        assert directory.stat().st_mode & 0o777 == 0o700
        assert directory.stat().st_uid == os.getuid()


def test_nothing_that_others_are_governed_by_is_written(paths):
    """Records, rules, the log, and what the host keeps of its machines."""
    others = [
        *search_path(paths.runtime, paths.config),
        *rule_path(paths.runtime, paths.config),
        *(paths.state / name for name in ("policy", "lockdown", "prompt-phrase")),
        *(paths.audit, paths.shipping, paths.homes, paths.images, paths.tools),
        *(paths.sandbox("web"), paths.standbys, paths.runtime / "folders"),
        *(paths.control, paths.state / "link", paths.runtime / "boxes"),
    ]
    for mine in own_files(paths).write:
        for other in others:
            assert not other.is_relative_to(mine)
            assert not mine.is_relative_to(other)


def test_nothing_of_the_home_is_read_but_settings(paths, tmp_path):
    read = [p for p in own_files(paths).read if p.is_relative_to(tmp_path)]
    assert read == [paths.config[0], paths.state / "link"]
