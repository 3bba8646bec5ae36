"""Hostile log bytes become lines that cannot drive a terminal."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.run.logs import _follow, _Lines
from tests.kit.brokerctl import harmless
from tests.kit.eventually import eventually


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


async def test_a_log_is_followed_while_its_name_is_missing(tmp_path: Path) -> None:
    """It is renamed, and the next file made a moment later."""
    log, seen = tmp_path / "console.log", bytearray()
    log.write_bytes(b"one ")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_follow, log, seen.extend, True)
        await eventually(lambda: bytes(seen) == b"one ")
        log.rename(tmp_path / "console.log.1")
        await trio.testing.wait_all_tasks_blocked(0.5)
        with (tmp_path / "console.log.1").open("ab") as file:
            file.write(b"two ")
        log.write_bytes(b"three")
        await eventually(lambda: bytes(seen) == b"one two three")
        nursery.cancel_scope.cancel()
