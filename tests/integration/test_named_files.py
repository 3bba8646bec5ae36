"""A file of the user's that a command of a record's box names is readable in the box."""

from __future__ import annotations

import pytest

from broker.cli.launchers.bwrap import with_named_files


@pytest.fixture
def place(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    (here / "film.webm").write_text("x")
    monkeypatch.chdir(here)
    return tmp_path


def test_a_named_file_has_its_whole_path_inside(place):
    film = place / "here/film.webm"
    words, files = with_named_files(("mpv", "--fs", "film.webm", "none"), None, ())
    assert words == ("mpv", "--fs", str(film), "none")
    assert files == (film,)


def test_a_file_of_the_sandboxs_home_is_meant_by_its_name(place):
    home = place / "home"
    home.mkdir()
    (home / "film.webm").write_text("own")
    command = ("mpv", "film.webm")
    assert with_named_files(command, home, ()) == (command, ())


def test_a_record_without_a_command_line_names_none(place):
    assert with_named_files((), None, ()) == ((), ())
