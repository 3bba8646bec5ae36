"""Words of ``cp`` and ``open`` that could name two things mean one, whatever lies here."""

from __future__ import annotations

import pytest

from broker.cli.transfer.copy import _sandbox_of
from broker.cli.transfer.open_in import _request
from broker.core.errors import RefusedError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work:notes").write_text("of a sandbox")
    (tmp_path / "https:").mkdir()
    (tmp_path / "https:/example.org").write_text("of a sandbox")
    (tmp_path / "a:b c").write_text("mine")


@pytest.mark.parametrize(
    ("word", "sandbox"),
    [
        ("work:notes", "work"),
        ("work:", "work"),
        ("./work:notes", ""),
        ("/tmp/work:notes", ""),
        ("notes", ""),
    ],
)
def test_a_file_that_lies_here_does_not_change_a_place(word, sandbox):
    assert _sandbox_of(word) == sandbox


def test_a_name_that_is_no_sandboxs_says_how_to_name_the_file():
    with pytest.raises(RefusedError, match="'My' is not a sandbox name") as caught:
        _sandbox_of("My: report.pdf")
    assert "for a file on this machine, use './My: report.pdf'" in caught.value.hint


def test_a_file_that_lies_here_does_not_take_the_place_of_an_address(tmp_path):
    assert (
        _request("https://example.org", None, edit=False).url == "https://example.org"
    )
    file = _request("./https:/example.org", None, edit=False)
    assert file.path == str(tmp_path / "https:/example.org")
    assert _request("a:b c", None, edit=False).path == str(tmp_path / "a:b c")
    assert _request("irc:x", None, edit=False).url == "irc:x"
