"""Whose rights a called service has, and when it begins, by Qubes' files."""

from __future__ import annotations

import os

import pytest

from shims.guest import called as module
from shims.guest.account import Account
from shims.guest.called import called, waits_for_session


@pytest.fixture(name="settings")
def _settings(tmp_path, monkeypatch):
    first, second = tmp_path / "local", tmp_path / "etc"
    first.mkdir()
    second.mkdir()
    monkeypatch.setattr(module, "QUBES_SETTINGS", (str(first), str(second)))
    return first, second


def serve(full, user=""):
    return ["vitrail-files", "serve", "0" * 32, user, full]


def test_a_service_has_the_settings_of_its_first_file(settings):
    first, second = settings
    (second / "test.Named").write_text(
        "force-user = root\n# wait-for-session=1\nother='x'\nbad user=$(id)\n"
    )
    assert called(serve("test.Named+"))[0] == "root"
    assert called(serve("test.Named+key"))[0] == "root"
    assert not waits_for_session(serve("test.Named+key"))
    (second / "test.Named+key").write_text("wait-for-session='1'\n")
    assert called(serve("test.Named+key")) == ("", {"wait-for-session": "1"})
    assert waits_for_session(serve("test.Named+key"))
    (first / "test.Named").write_text("force-user=nobody\n")
    assert called(serve("test.Named+key"))[0] == "nobody"
    # The broker's word precedes them.
    assert called(serve("test.Named+key", "user"))[0] == "user"


@pytest.mark.parametrize("full", ["../x+", "a/b+", "x", "x+/y", ".x+", "x+\n", "+"])
def test_only_a_service_becomes_a_files_name(settings, full):
    for folder in settings:
        for name in ("x", ".x"):
            (folder / name).write_text("force-user=root\n")
    (settings[0].parent / "x").write_text("force-user=root\n")
    assert called(serve(full)) == ("", {})


def test_other_commands_have_no_settings():
    for argv in (["sh", "serve", "t", "root", "x+"], ["vitrail-files", "serve", "t"]):
        assert called(argv) == ("", {})


def test_an_account_by_name_is_that_user_or_an_error():
    with pytest.raises(OSError, match="no such user"):
        Account("no-such-user-here")
    if os.geteuid():
        with pytest.raises(OSError, match="not root"):
            Account("root")
    else:
        assert Account("nobody").uid != 0
