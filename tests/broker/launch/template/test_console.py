"""The end of a template's console, which its guest writes."""

from __future__ import annotations

import os

import pytest

from broker.launch.template import make


def test_a_console_of_terabytes_is_read_at_its_end(tmp_path):
    path = tmp_path / make._CONSOLE
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"." * make._TAIL + b"Kernel panic")
    assert make._tail(tmp_path).endswith("Kernel panic")


@pytest.mark.parametrize("text", ["", "early"])
def test_a_short_console_is_shown_whole(tmp_path, text):
    (tmp_path / make._CONSOLE).write_text(text)
    assert make._tail(tmp_path) == text
    assert make._tail(tmp_path / "none") == ""
