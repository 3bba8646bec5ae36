"""A viewer that was taken over writes what others are governed by: rules, records, the log.

Its real files and its real confinement, in a process that has the user's rights before.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from broker.core.files.trees import remove_tree
from broker.core.files.zone_name import LOCALTIME, zone_name
from broker.core.paths import find_paths
from broker.core.streams.sound_rules import Level
from broker.helpers import landlock
from broker.helpers.filters.viewer_filter import viewer_filter
from broker.helpers.viewer_confinement import confine_viewer
from broker.viewer.own_files import own_files
from broker.viewer.sandboxes.time_zone import time_zone
from broker.viewer.sound.levels import levels_folder, load_level, save_level
from tests.kit.wayland.compositor import short_directory

pytestmark = pytest.mark.skipif(not landlock.version(), reason="Landlock is missing")
_OTHERS = (
    "run/vitrail/sandboxes.d/web.toml",
    "run/vitrail/policy.d/30-web.policy",
    "run/vitrail/sandboxes/web/vsock/vm.vsock",
    "run/vitrail/folders/web",
    ".config/vitrail/sandboxes.d/web.toml",
    ".config/vitrail/ship.toml",
    ".local/state/vitrail/policy/rules.json",
    ".local/state/vitrail/audit.sqlite",
    ".local/state/vitrail/link/peers",
    ".local/share/icons/hicolor/scalable/apps/vitrail-sandbox-web.svg",
)


@pytest.fixture
def home(monkeypatch):
    with short_directory() as base:
        for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(base))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base / "run"))
        for name in _OTHERS:
            (base / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            (base / name).write_text("before")
        for name in ("run", "run/vitrail"):
            (base / name).chmod(0o700)
        yield base


def done(action):
    """Whether a confined viewer does it."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            confine_viewer(viewer_filter(os.getpid()), *own_files(find_paths()))
            try:
                action()
                code = 0
            except PermissionError:
                code = 1
            except OSError:
                code = 2
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in {0, 1, 2}, code
    return code == 0


@pytest.mark.parametrize("name", _OTHERS)
def test_it_changes_nothing_that_others_read(home, name):
    path = home / name
    mine = home / "run/vitrail/display/web.toml"

    def replace():
        mine.write_text("after")
        mine.rename(path)

    def link():
        mine.symlink_to(path)
        mine.write_text("after")

    for attack in (
        lambda: path.write_text("after"),
        path.with_name("other").touch,
        path.unlink,
        replace,
        link,
        lambda: path.parent.rename(path.parent.with_name("away")),
        lambda: mine.parent.rename(path.parent),
    ):
        assert not done(attack)
    assert path.read_text() == "before"
    assert not path.with_name("other").exists()


def test_it_reads_no_settings(home):
    assert not done((home / ".config/vitrail/ship.toml").read_text)
    assert not done(lambda: list((home / ".config/vitrail").iterdir()))


def test_it_does_what_it_has_its_files_for(home):
    def work():
        paths = find_paths()
        place = paths.displays / "web-1"
        place.mkdir()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(os.fspath(place / "s"))
        assert remove_tree(place) is None
        save_level(levels_folder(), "web", Level(7, muted=True))
        assert load_level(levels_folder(), "web") == Level(7, muted=True)
        logs: Path = paths.logs("web-1")
        logs.mkdir()
        (logs / "program-1.log").write_text("x")
        assert remove_tree(logs) is None
        time_zone(LOCALTIME)
        zone_name(LOCALTIME)

    assert done(work)
