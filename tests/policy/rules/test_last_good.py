"""The last good set: kept, read again, and in force while a file is broken."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings

from policy.rules.engine import Engine, PolicyCall
from policy.rules.last_good import choose, keep, kept, written
from policy.rules.ruleset import RuleSet
from policy.rules.world import Domain, World
from policy.tools.files_in_memory import rules_of_map
from tests.policy import strategies

_WORLD = World({"work": Domain("work"), "vault": Domain("vault"), "web": Domain("web")})
_GOOD = "a * work vault allow rate=3/5min ttl=2d max-size=1K gesture=5s\nb +x @tag:t dom0 ask remember=stream\n"


def _rules(text, **more):
    return rules_of_map({"10-a.policy": text, **more})


@pytest.fixture(name="file")
def _file(tmp_path):
    tmp_path.chmod(0o700)
    return tmp_path / "rules.json"


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.policies())
def test_a_rule_written_means_the_same(text):
    """Whatever it has in it, also after !include-service."""
    for rules in (
        _rules(text),
        _rules("!include-service a +x o", o="$anyvm $adminvm ask,user=x,notify=yes\n"),
    ):
        again = _rules("\n".join(map(written, rules.rules)))
        assert again.digest == rules.digest


def test_kept_and_read_again(file):
    """Same digest, same places, no other user may read it."""
    rules = _rules(_GOOD)
    keep(rules, file)
    keep(rules, file)
    assert file.stat().st_mode & 0o777 == 0o600
    again = kept(file)
    assert isinstance(again, RuleSet)
    assert again.digest == rules.digest
    assert [rule.where for rule in again.rules] == [rule.where for rule in rules.rules]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:-9], "not a saved set"),
        (
            lambda text: text.replace("a * work vault allow", "a * * * allow"),
            "has changed",
        ),
        (lambda text: text.replace("allow", "alow"), "cannot parse"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version 2"),
        (lambda text: "[" * 100000, "not a saved set"),
        (lambda text: json.dumps([]), "not a saved set"),
        (
            lambda text: json.dumps({"version": 1, "digest": "", "rules": [1]}),
            "not a saved set",
        ),
    ],
)
def test_a_changed_copy_is_not_used(file, change, said):
    """It says why."""
    keep(_rules(_GOOD), file)
    file.write_text(change(file.read_text()))
    assert said in kept(file).message


def test_one_that_others_may_write_is_not_used(file):
    """And none at all is no problem."""
    assert kept(file) is None
    keep(_rules(_GOOD), file)
    file.chmod(0o622)
    assert "is writable by others" in kept(file).message


@pytest.mark.parametrize(
    "broken", ["a * work vault alow\n", "!include x\n", "\xff\n", "a\n"]
)
def test_while_a_broken_file_is_there_nothing_changes(file, broken):
    """Decisions equal those before it, over a restart too; then it is mended."""
    good = _rules(_GOOD)
    assert choose(good, None) == (good, None, False)
    keep(good, file)
    bad = _rules(_GOOD, **{"05-new.policy": broken})
    force = choose(bad, kept(file))
    assert force.kept
    assert force.why.file == "05-new.policy"
    for service, target in (("a", "vault"), ("a", "web"), ("b", "vault"), ("c", "")):
        call = PolicyCall(service, "+", "work", target)
        before, after = (
            Engine(good).answer(call, _WORLD),
            Engine(force.rules).answer(call, _WORLD),
        )
        assert (before.verdict, before.where) == (after.verdict, after.where)


def test_a_first_start_with_a_broken_set_denies_all_and_says_why():
    """Also what its good lines would allow."""
    force = choose(_rules("a * * * allow\nb * * * alow\n"), None)
    answer = Engine(force.rules).answer(PolicyCall("a", "+", "work", "vault"), _WORLD)
    assert answer.verdict == "deny"
    assert "10-a.policy:2" in answer.reason
    with pytest.raises(ValueError, match="cannot be saved"):
        keep(force.rules, None)
