"""``brokerctl x11``: the program for containers of others, and its message without X."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from broker.cli.x11.verb import command
from broker.core.errors import SetupError
from shims.bundle import x11_bridge


def test_the_program_is_written_for_a_container(tmp_path):
    file = tmp_path / "vitrail-x11"
    done = CliRunner().invoke(command, ["--write", str(file)])
    assert done.exit_code == 0, done.output
    assert file.read_bytes() == x11_bridge()
    assert file.stat().st_mode & 0o777 == 0o755


def test_a_call_without_a_program_says_what_is_missing():
    done = CliRunner().invoke(command, [])
    assert done.exit_code == 2
    assert "COMMAND is missing" in done.output


def test_a_machine_without_xwayland_is_told_the_package(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SetupError, match="Xwayland") as error:
        CliRunner().invoke(command, ["--", "xterm"], catch_exceptions=False)
    assert "apt install xwayland" in str(error.value.hint)
