"""Last words, also where there is nothing left to write them on."""

from __future__ import annotations

import sys

import pytest
import trio

from broker.core.stderr_log import isolated, log_exception, log_stderr
from tests.kit.link.roles import full_disk


def test_it_says_so(capsys):
    log_stderr("no room")
    assert capsys.readouterr().err == "no room\n"


def test_a_mistake_is_said_with_its_place(capsys):
    try:
        raise ValueError("what")
    except ValueError as error:
        log_exception(error)
    said = capsys.readouterr().err
    assert "test_stderr_log.py" in said
    assert said.endswith("ValueError: what\n")


@pytest.mark.parametrize("how", ["full", "closed"])
def test_a_standard_error_that_cannot_be_written(monkeypatch, how):
    with full_disk() as full:
        if how == "closed":
            full.close()
        monkeypatch.setattr(sys, "stderr", full)
        for _ in range(3):
            log_stderr("x" * 20_000)
            log_exception(ValueError("what"))
        monkeypatch.undo()


def test_a_mistake_inside_a_block_is_logged_and_what_follows_goes_on(capsys):
    with isolated():
        raise ValueError("of one sandbox")
    assert capsys.readouterr().err.endswith("ValueError: of one sandbox\n")


async def test_cancellation_passes_an_isolated_block(capsys):
    with trio.CancelScope() as scope:
        scope.cancel()
        with isolated():
            await trio.sleep_forever()
        raise AssertionError
    assert scope.cancelled_caught
    assert capsys.readouterr().err == ""
