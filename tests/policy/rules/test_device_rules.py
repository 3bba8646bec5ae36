"""Device conditions in rule files: reading, deciding, explaining, lint, keeping."""

from __future__ import annotations

from functools import partial

import pytest

from policy.records.device import DeviceFacts, Interface
from policy.records.device_json import device_text
from policy.rules.conditions import DEVICE_KEYS
from policy.rules.engine import Engine, PolicyCall
from policy.rules.last_good import written
from policy.rules.world import Domain, World
from policy.tools.algebra import Atoms, reach
from policy.tools.cases import parse_cases, run_cases
from policy.tools.device_example import example
from policy.tools.diff import diff
from policy.tools.effective import grants
from policy.tools.explain import answer_json, explain
from policy.tools.files_in_memory import rules_of_map
from policy.tools.linting.lint import lint

_WORLD = World({"work": Domain("work"), "banking": Domain("banking")})
_STICK = DeviceFacts(
    id="0951:1666",
    serial="A 1,{}",
    port="1-2",
    hash="ab" * 32,
    interfaces=(Interface(8, 6, 0x50),),
)
_HEAD = "vitrail.Device * work @adminvm "


def rules(text: str):
    found = rules_of_map({"10-a.policy": text})
    assert not found.problems, found.problems
    return found


def device(*interfaces: str, **more: str) -> DeviceFacts:
    kinds = tuple(Interface(*(int(b, 16) for b in i.split(":"))) for i in interfaces)
    return DeviceFacts(**{"id": "0951:1666", "port": "1-2", **more}, interfaces=kinds)


def decided(text: str, what: DeviceFacts | None, source: str = "work"):
    call = PolicyCall("vitrail.Device", "+1-2", source, "@adminvm", device=what)
    return Engine(rules(text)).answer(call, _WORLD)


def verdict(action: str, what: DeviceFacts | None) -> str:
    return decided(_HEAD + action + "\n", what).verdict


@pytest.mark.parametrize(
    ("action", "interfaces", "expected"),
    [
        ("allow", ["08:06:50"], "allow"),
        ("allow", ["03:01:01"], "deny"),
        ("allow", ["08:06:50", "03:00:00"], "deny"),
        ("allow", ["09:00:00"], "deny"),
        ("allow id=0951:*", ["08:06:50"], "allow"),
        ("allow id=0952:*", ["08:06:50"], "deny"),
        ("ask with-interface=03:01:01", ["03:01:01"], "ask"),
        (
            "allow with-interface=equals{08:*:*,08:06:50}",
            ["08:06:50", "03:01:01"],
            "deny",
        ),
        ("allow with-interface=match-all{08:*:*}", ["08:06:50", "08:06:62"], "allow"),
        ("allow with-interface=none-of{03:*:*}", ["03:01:01"], "deny"),
        ("allow class=storage", ["08:06:50", "08:06:62"], "allow"),
        ("allow class=storage", ["08:06:50", "0e:01:00"], "deny"),
        ("allow class=storage,0e", ["08:06:50", "0e:01:00"], "allow"),
        ("allow class=storage", [], "deny"),
        ("allow class=hid", ["03:01:01"], "deny"),
        ("allow port=one-of{1-2,1-3}", ["08:06:50"], "allow"),
        ("allow port=1-3", ["08:06:50"], "deny"),
    ],
)
def test_conditions_decide(action: str, interfaces: list[str], expected: str):
    assert verdict(action, device(*interfaces)) == expected


def test_denies_reach_keyboards_that_they_do_not_name():
    text = f"{_HEAD}deny id=0951:1666\n{_HEAD}allow with-interface=03:01:01\n"
    assert decided(text, device("03:01:01")).verdict == "deny"
    assert decided(text, device("03:01:01", id="0951:1667")).verdict == "allow"


def test_grants_need_a_device_and_denies_do_not():
    assert verdict("allow id=0951:1666", None) == "deny"
    text = f"{_HEAD}deny id=0951:1666\n{_HEAD}allow\n"
    assert decided(text, None).verdict == "deny"


def test_serial_with_blanks_commas_and_braces_is_written_in_percent_form():
    assert verdict("allow serial=A%201%2C%7B%7D", _STICK) == "allow"


def test_attach_is_part_of_the_answer():
    answer = decided(f"{_HEAD}allow class=storage attach=auto\n", _STICK)
    assert answer.rule is not None
    assert answer.rule.attach == "auto"
    assert answer_json(answer)["attach"] == "auto"


@pytest.mark.parametrize(
    "line",
    [
        "allow id=0951",
        "allow id=*:1666",
        "allow id=0951:1666,0951:1667",
        "allow with-interface=*:*:*",
        "allow with-interface=any-of{08:*:*}",
        "allow with-interface=equals{}",
        "allow with-interface=equals{08:*:*",
        "allow class=stick",
        "allow port=two",
        "allow attach=always",
        "ask attach=auto",
        "deny attach=auto",
    ],
)
def test_malformed_conditions_are_errors_with_their_place(line: str):
    known = line.startswith("allow")
    column = len(_HEAD) + (line.index("=") + 2 if known else line.index("attach") + 1)
    found = rules_of_map({"10-a.policy": f"{_HEAD}{line}\n"})
    assert len(found.problems) == 1
    assert found.problems[0].span.column == column
    answer = Engine(found).answer(
        PolicyCall("vitrail.Device", "+", "work", "@adminvm", device=_STICK), _WORLD
    )
    assert answer.verdict == "deny"


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("allow id=1050:*", "id is '0951:1666', not 1050:*"),
        ("allow with-interface=0e:*:*", "with-interface is 08:06:50, not 0e:*:*"),
        ("allow class=video", "class is 08:06:50, not match-all{video}"),
    ],
)
def test_explain_says_which_device_condition_failed(action: str, words: str):
    call = PolicyCall("vitrail.Device", "+1-2", "work", "@adminvm", device=_STICK)
    found = explain(rules(_HEAD + action + "\n"), call, _WORLD)
    assert found.misses[0].why == words
    assert found.nearest == found.misses[0]


def test_explain_names_the_unnamed_keyboard():
    call = PolicyCall(
        "vitrail.Device", "+1-2", "work", "@adminvm", device=device("03:01:01")
    )
    found = explain(rules(_HEAD + "allow\n"), call, _WORLD)
    assert "does not name the interface 03:01:01" in found.misses[0].why


@pytest.mark.parametrize(
    ("line", "checks"),
    [
        (f"{_HEAD}allow id=0951:1666", ["device-unpinned"]),
        (f"{_HEAD}allow class=storage", []),
        (f"{_HEAD}allow hash={'ab' * 32}", []),
        ("vitrail.OpenURL * work banking allow class=storage", ["device-elsewhere"]),
        ("vitrail.OpenURL * work banking deny id=0951:1666", ["device-elsewhere"]),
    ],
)
def test_lint_finds(line: str, checks: list[str]):
    assert [finding.check for finding in lint(rules(line + "\n"), _WORLD)] == checks


def test_plain_allow_does_not_shadow_a_rule_that_names_keyboards():
    found = rules(f"{_HEAD}allow\n{_HEAD}allow with-interface=03:01:01\n")
    known = reach(found.rules, Atoms(found.rules, _WORLD, instances=False))
    assert known.decides[1]


_LINES = [
    "allow id=one-of{0951:*,1050:0407} serial=A%201%2C%7B%7D port=1-2.1 attach=required",
    "ask with-interface=equals-ordered{03:01:01,08:*:*} hash=abc+/=",
    "deny class=storage,0e with-interface=none-of{03:*:*}",
    "allow class=storage",
]


@pytest.mark.parametrize("line", _LINES)
def test_written_rules_mean_the_same(line: str):
    found = rules(f"{_HEAD}{line}\n")
    again = rules(written(found.rules[0]) + "\n")
    assert again.digest == found.digest
    assert found.rules[0].match == again.rules[0].match


@pytest.mark.parametrize("line", [*_LINES[:2], _LINES[3]])
def test_example_device_meets_the_rule(line: str):
    match = rules(f"{_HEAD}{line}\n").rules[0].match
    made = example(match.device)
    assert made is not None
    assert match.device.matches(made) or "class" in line


def test_diff_finds_a_changed_device_condition():
    old = rules(f"{_HEAD}allow class=storage\n")
    new = rules(f"{_HEAD}allow class=storage attach=auto\n")
    assert len(diff(old, new, _WORLD)) == 1
    assert diff(old, old, _WORLD) == []
    narrower = rules(f"{_HEAD}allow class=storage port=1-2\n")
    assert len(diff(old, narrower, _WORLD)) == 1


def test_effective_shows_what_a_device_rule_grants():
    found = grants(rules(f"{_HEAD}allow class=storage\n"), _WORLD, "work")
    assert [grant.call.device is not None for grant in found] == [True]


def test_cases_tell_a_device():
    line = (
        "vitrail.Device+1-2 work @adminvm "
        'device={"id":"0951:1666","interfaces":["08:06:50"]} -> allow\n'
    )
    cases, problems = parse_cases("a.policytest", line.encode())
    assert not problems
    engine = Engine(rules(f"{_HEAD}allow class=storage\n"))
    assert [
        result.wrong
        for result in run_cases(cases, partial(engine.answer, world=_WORLD))
    ] == [()]
    bad = line.replace("08:06:50", "08:*:*").encode()
    assert "device.interfaces[0]" in parse_cases("a", bad)[1][0].message


def test_device_text_reads_what_the_command_line_gives():
    assert device_text('{"interfaces": ["08:06:50"]}').interfaces == (
        Interface(8, 6, 0x50),
    )


def test_every_device_key_is_a_key_of_rules():
    assert set(DEVICE_KEYS) == {
        "id",
        "serial",
        "port",
        "hash",
        "with-interface",
        "class",
    }
