"""How the end of a box or container is told."""

from __future__ import annotations

import signal

import pytest

from broker.cli.launchers.held import exit_code


@pytest.mark.parametrize("code", [-signal.SIGFPE, 128 + signal.SIGFPE])
def test_a_crash_is_told(code, capsys):
    """By the kernel's number, or by that which the box's first process passes on."""
    assert exit_code("box-12ab34", code, as_json=False) == 136
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "the program in box-12ab34 crashed" in shown.err
    assert "SIGFPE" in shown.err


@pytest.mark.parametrize("code", [0, 1, 127, 128, 255, -signal.SIGTERM, -signal.SIGINT])
def test_another_end_is_the_programs_or_the_users_own(code, capsys):
    exit_code("box-12ab34", code, as_json=False)
    assert capsys.readouterr() == ("", "")


def test_json_has_the_code_alone(capsys):
    exit_code("box-12ab34", -signal.SIGSEGV, as_json=True)
    shown = capsys.readouterr()
    assert '"code": 139' in shown.out
    assert shown.err == ""
