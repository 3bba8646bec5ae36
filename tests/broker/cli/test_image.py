from __future__ import annotations

import pytest
from click.testing import CliRunner

from broker.cli.image import age_text, command, read_packages
from broker.core.errors import SetupError


def test_package_list_has_words_and_comments(tmp_path):
    path = tmp_path / "packages"
    path.write_text("foot  waypipe # the terminal\n\n# nothing\nfirefox-esr\n")
    assert read_packages(path) == ("foot", "waypipe", "firefox-esr")


def test_package_list_that_is_no_text(tmp_path):
    path = tmp_path / "packages"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match="package list"):
        read_packages(path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "5.0 s"),
        (7200, "2.0 h"),
        (172800, "48.0 h"),
        (172801, "2 days"),
        (864000, "10 days"),
    ],
)
def test_age(seconds, text):
    assert age_text(seconds) == text


def test_rollback_where_no_image_was_ever_built(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SetupError, match="there is no guest image 'default'"):
        CliRunner().invoke(command, ["rollback"], catch_exceptions=False)
