"""Which hosts a rule for ``vitrail.OpenURL`` opens in the user's own programs."""

from __future__ import annotations

import pytest

from policy.destinations import is_inner_host
from policy.rules.engine import Engine, PolicyCall
from policy.rules.world import Domain, World
from policy.tools.files_in_memory import rules_of_map

INNER = (
    *("localhost", "a.localhost", "LOCALHOST.", "127.0.0.1", "192.168.1.1", "10.1.2.3"),
    *("100.64.0.1", "169.254.169.254", "::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"),
    *("64:ff9b::a00:1", "wiki", "printer.local", "home.arpa", "nas.home.arpa"),
    *("db.internal", "fritz.lan", "fritz.box", "wiki.corp"),
)
OUTER = ("www.example.org", "example.org.", "8.8.8.8", "2606:4700::1", "arpa.org", "")
WORLD = World({"work": Domain("work"), "web": Domain("web")})


def verdict(text, host, target=""):
    engine = Engine(rules_of_map({"10-a.policy": text}))
    scheme = "http" if host else "mailto"
    call = PolicyCall("vitrail.OpenURL", "+", "work", target, scheme=scheme, host=host)
    return engine.answer(call, WORLD)


@pytest.mark.parametrize("host", INNER)
def test_inner_host_opened_on_this_machine_by_rule_with_host_only(host):
    """Sandboxes would have the user's browser act on routers and local services."""
    assert is_inner_host(host)
    answer = verdict("vitrail.OpenURL * work @adminvm allow\n", host, "@adminvm")
    assert answer.verdict == "deny"
    assert "which only a rule with host= opens" in answer.reason
    redirect = "vitrail.OpenURL * work @default allow target=@adminvm\n"
    assert verdict(redirect, host).verdict == "deny"


def test_inner_host_allowed_by_rule_that_names_it():
    text = "vitrail.OpenURL * work @adminvm allow host=wiki,192.168.1.1\n"
    assert verdict(text, "wiki", "@adminvm").verdict == "allow"
    assert verdict(text, "192.168.1.1", "@adminvm").verdict == "allow"


def test_inner_host_asked_and_opened_in_another_sandbox():
    """A question shows the host, and another sandbox has its own loopback."""
    text = "vitrail.OpenURL * work @adminvm ask\nvitrail.OpenURL * work web allow\n"
    assert verdict(text, "192.168.1.1", "@adminvm").verdict == "ask"
    assert verdict(text, "192.168.1.1", "web").verdict == "allow"


@pytest.mark.parametrize("host", OUTER)
def test_outer_host_opened_by_rule_without_host(host):
    assert not is_inner_host(host)
    text = "vitrail.OpenURL * work @adminvm allow\n"
    assert verdict(text, host, "@adminvm").verdict == "allow"
