"""The first line of a lockdown is its effect."""

from __future__ import annotations

from broker.cli.menu.lockdown_lines import lockdown_lines
from broker.ipc.control.api import LockdownAnswer


def first(locked, networks=False, open_networks=(), **more):
    answer = LockdownAnswer(locked, networks, "", list(open_networks))
    return lockdown_lines(answer, **more)[0]


def test_each_effect_has_its_own_first_line():
    assert first(False) == "no lockdown is in force"
    assert "any more" in first(False, lifted=True)
    assert "networks" not in first(True)
    assert first(True, True).startswith("a lockdown is in force: networks, micro")


def test_sandboxes_with_a_network_are_named_first():
    line = first(True, True, ["dev", "web"])
    assert "but these sandboxes may still use a network: dev, web" in line


def test_without_a_broker_nothing_is_said_to_be_cut():
    assert "nothing is cut" in first(True, True, runs=False)
