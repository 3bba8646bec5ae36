"""Options that need no value, as in journalctl."""

from __future__ import annotations

import pytest

from broker.cli.audit.event_text import with_values


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (["-b"], ["-b", "0"]),
        (["-b", "-1"], ["-b", "-1"]),
        (["-b", "2"], ["-b", "2"]),
        (["-b", "-n"], ["-b", "0", "-n", "10"]),
        (["-b", "stats"], ["-b", "0", "stats"]),
        (["--boot", "a" * 32, "-r"], ["--boot", "a" * 32, "-r"]),
        (["-n", "5"], ["-n", "5"]),
        (["-n", "+5"], ["-n", "+5"]),
        (["-n", "-r"], ["-n", "10", "-r"]),
        (["--lines", "all"], ["--lines", "all"]),
        (["-n5"], ["-n5"]),
        (["--boot=-1"], ["--boot=-1"]),
        (["-S", "-1h", "-b"], ["-S", "-1h", "-b", "0"]),
        (["--", "-b"], ["--", "-b"]),
        ([], []),
    ],
)
def test_with_values(said: list[str], meant: list[str]) -> None:
    assert with_values(said) == meant
