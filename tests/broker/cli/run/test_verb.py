"""``brokerctl run``: an address in place of a program has a hint."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from broker.cli.quick import box
from broker.cli.run import request
from broker.cli.run.verb import command
from broker.core.errors import RefusedError


@pytest.mark.parametrize("dashes", [(), ("--",)])
def test_an_address_is_no_program(dashes, monkeypatch):
    monkeypatch.setattr(request, "held_record", lambda _: pytest.fail("it went on"))
    words = ["fox", *dashes, "http://news.example/a"]
    error = CliRunner().invoke(command, words).exception
    assert isinstance(error, RefusedError)
    assert (
        error.message
        == "http://news.example/a is an address, and 'run' takes a program"
    )
    assert "brokerctl open --in fox ADDRESS" in error.hint


def test_the_quick_run_leaves_an_address_to_the_verb(monkeypatch):
    monkeypatch.setattr(box, "_paths", lambda: pytest.fail("it went on"))
    assert box.run_record("fox", ("http://news.example/a",)) is None


def test_an_argument_may_be_an_address(monkeypatch):
    seen = []
    monkeypatch.setattr(request, "held_record", lambda _: None)
    monkeypatch.setattr(request, "run_request", lambda wanted, _: seen.append(wanted))
    CliRunner().invoke(command, ["fox", "--", "firefox", "http://news.example/a"])
    assert seen[0].argv == ["firefox", "http://news.example/a"]
