"""Hostile log bytes become lines that cannot drive a terminal."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.run.logs import _Lines, _rotated
from broker.core.paths import find_paths
from tests.kit.brokerctl import called, harmless, home


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


def test_a_log_whose_name_is_missing_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """It is renamed, and the next file made a moment later."""
    log = tmp_path / "console.log"
    log.write_bytes(b"one")
    with log.open("rb") as first:
        assert _rotated(log, first.fileno()) is None
        log.rename(tmp_path / "console.log.1")
        assert _rotated(log, first.fileno()) is None
        log.write_bytes(b"two")
        newer = _rotated(log, first.fileno())
        assert newer is not None
        with newer:
            assert newer.read() == b"two"


@pytest.mark.parametrize("systemd", [True, False])
def test_a_box_has_its_output_in_its_terminal(
    monkeypatch: pytest.MonkeyPatch, *, systemd: bool
) -> None:
    """It was told that logs begin with the first start, after its first start."""
    record = 'class = "persistent"\n[launch]\nkind = "bwrap"\ncommand = ["foot"]\n'
    with home() as env:
        folder = find_paths(env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        (folder / "boxa.toml").write_text(record)
        for module in ("logs", "request"):
            name = f"broker.cli.run.{module}.systemd_runs"
            monkeypatch.setattr(name, lambda: systemd)
        answer = called("logs", "boxa", env=env)
        detached = called("run", "-d", "boxa", env=env)
    assert answer.code == 1
    assert "the terminal of 'brokerctl run'" in answer.err
    assert ("journalctl --user -u vitrail-run@boxa" in answer.err) is systemd
    assert ("systemctl --user start vitrail-run@boxa" in detached.err) is systemd
    assert systemd or "run 'brokerctl run boxa &'" in detached.err


def test_logs_of_ended_disposable_explained() -> None:
    with home() as env:
        folder = find_paths(env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        record = 'class = "disposable"\n[launch]\nkind = "microvm"\n'
        (folder / "web.toml").write_text(record)
        answer = called("logs", "web-1234", env=env)
        answer_of_set = called("set", "web", "logs", "keep", "--yes", env=env)
        other = called("logs", "web-1234", env=env)
    assert "deleted at its end" in answer.err
    assert "run 'brokerctl set web logs keep'" in answer.err
    assert answer_of_set.code == 0, answer_of_set
    assert "deleted at its end" not in other.err
