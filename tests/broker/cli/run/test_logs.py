"""Hostile log bytes become lines that cannot drive a terminal."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.run.logs import _Lines
from tests.kit.brokerctl import harmless


def shown(pieces: list[bytes], capsys: pytest.CaptureFixture[str]) -> str:
    lines = _Lines()
    for piece in pieces:
        if piece:
            lines.write(piece)
    lines.write(b"")
    return capsys.readouterr().out


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown([b"a\r\nb\tc\n", b"d", b"e\nrest"], capsys) == "a\nb\tc\nde\nrest\n"
    assert shown([b"\x1b[31mred\xff\n"], capsys) == "\\x1b[31mred\\\\xff\n"


def test_a_line_that_never_ends_is_shown_in_pieces(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown([b"x" * 10_000], capsys)
    assert [len(line) for line in text.splitlines()] == [4096, 4096, 1808]


@given(pieces=st.lists(st.binary(max_size=30), max_size=8))
def test_nothing_that_drives_a_terminal_comes_out(pieces: list[bytes]) -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        lines = _Lines()
        for piece in pieces:
            if piece:
                lines.write(piece)
        lines.write(b"")
    for line in out.getvalue().split("\n"):
        assert harmless(line.replace("\t", "")), repr(line)
