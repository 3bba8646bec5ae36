"""Device conditions: USBGuard's operators, pairing one to one, keyboards and hubs."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.records import device as limits
from policy.records.device import (
    OPERATORS,
    Condition,
    DeviceFacts,
    DeviceRule,
    Interface,
    condition,
)
from policy.records.device_json import answer_line

_CORPUS = Path(__file__).parents[2] / "corpus/policy/devices/lines.jsonl"
_LINES = [line.rpartition(" -> ")[::2] for line in _CORPUS.read_text().splitlines()]

# Few numbers, so that interfaces and patterns often meet.
_BYTES = st.sampled_from(["03", "08", "09", "01"])
_INTERFACES = st.lists(st.tuples(_BYTES, _BYTES, _BYTES).map(":".join), max_size=5)
_PATTERN = st.one_of(
    st.tuples(_BYTES, _BYTES, _BYTES).map(":".join),
    st.tuples(_BYTES, _BYTES, st.just("*")).map(":".join),
    st.tuples(_BYTES, st.just("*"), st.just("*")).map(":".join),
)
_PATTERNS = st.lists(_PATTERN, min_size=1, max_size=5)


def fits(pattern: str, interface: str) -> bool:
    return all(
        p in {"*", i}
        for p, i in zip(pattern.split(":"), interface.split(":"), strict=True)
    )


def reference(op: str, patterns: list[str], interfaces: list[str]) -> bool:
    """The manual's sentences, written down as slowly as they read."""
    match op:
        case "all-of":
            return all(any(fits(p, i) for i in interfaces) for p in patterns)
        case "one-of":
            return any(fits(p, i) for p in patterns for i in interfaces)
        case "none-of":
            return not any(fits(p, i) for p in patterns for i in interfaces)
        case "match-all":
            return all(any(fits(p, i) for p in patterns) for i in interfaces)
        case "equals-ordered":
            orders = [tuple(interfaces)]
        case _:
            orders = list(permutations(interfaces))
    return len(patterns) == len(interfaces) and any(
        all(map(fits, patterns, order)) for order in orders
    )


def asked(rule: object, device: object) -> dict[str, object]:
    return answer_line(json.dumps({"rule": rule, "device": device}).encode())


@pytest.mark.parametrize(("line", "expected"), _LINES)
def test_corpus_line_is_answered_as_recorded(line: str, expected: str):
    answer = answer_line(line.encode())
    if expected in {"true", "false"}:
        assert answer == {"match": expected == "true"}
    else:
        assert answer["match"] is False
        assert answer["place"] == expected
        assert answer["error"]


@given(st.sampled_from(sorted(OPERATORS)), _PATTERNS, _INTERFACES)
def test_operators_mean_what_the_manual_says(op, patterns, interfaces):
    found = condition("with-interface", op, patterns)
    values = [Interface(*(int(b, 16) for b in i.split(":"))) for i in interfaces]
    assert found.holds(values) == reference(op, patterns, interfaces)


@given(st.sampled_from(sorted(OPERATORS)), _PATTERNS, _INTERFACES)
def test_unnamed_keyboards_and_hubs_never_match(op, patterns, interfaces):
    rule = {"with-interface": {"op": op, "values": patterns}}
    answer = asked(rule, {"interfaces": interfaces})
    named = [] if op == "none-of" else patterns
    dangerous = [
        i
        for i in interfaces
        if i.startswith("09") or (i[:2] == "03" and i[-2:] == "01")
    ]
    if any(not any(fits(p, i) for p in named) for i in dangerous):
        assert answer == {"match": False}
    else:
        assert answer == {"match": reference(op, patterns, interfaces)}


@given(_INTERFACES, st.text(max_size=8))
def test_rules_without_interfaces_refuse_a_keyboard_whatever_its_id(others, serial):
    device = {"id": "1050:0407", "serial": serial, "interfaces": [*others, "03:01:01"]}
    assert asked({"id": "1050:0407", "serial": serial}, device) == {"match": False}


_ID = st.tuples(st.sampled_from(["0951", "1234"]), st.sampled_from(["1666", "00ff"]))
_ID_PATTERN = st.one_of(
    _ID.map(":".join),
    st.sampled_from(["0951:*", "1234:*", "*:*"]),
)


@given(
    st.sampled_from(sorted(OPERATORS)),
    st.lists(_ID_PATTERN, min_size=1, max_size=3),
    _ID.map(":".join),
)
def test_one_id_is_a_set_of_one(op, patterns, mine):
    answer = asked({"id": {"op": op, "values": patterns}}, {"id": mine.upper()})
    assert answer == {"match": reference(op, patterns, [mine])}


def test_stick_with_keyboard_does_not_pass_for_a_stick():
    rule = {"with-interface": {"op": "equals", "values": ["08:*:*", "08:06:50"]}}
    answer = asked(rule, {"interfaces": ["08:06:50", "03:01:01"]})
    assert answer == {"match": False}


def test_deny_rules_are_about_unnamed_keyboards_too():
    rule = DeviceRule((("id", condition("id", "equals", ["1050:*"])),))
    keyboard = DeviceFacts(id="1050:0407", interfaces=(Interface(3, 1, 1),))
    assert rule.fails(keyboard) == ""
    assert rule.unnamed(keyboard) == Interface(3, 1, 1)


@given(st.binary(max_size=300))
def test_any_bytes_are_answered_and_never_match(line):
    answer = answer_line(line)
    assert answer["match"] is False
    assert answer["error"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda v: (
            st.lists(v, max_size=3)
            | st.dictionaries(
                st.sampled_from(["op", "values", "id", "x"]), v, max_size=3
            )
        ),
    )
)
def test_any_json_as_rule_matches_or_is_an_error(value):
    answer = asked({"with-interface": value}, {"interfaces": ["08:06:50"]})
    assert answer["match"] is False
    assert answer["error"]


@pytest.mark.parametrize("most", [limits.CONDITION_VALUES])
def test_values_are_bounded(most: int):
    rule = {"with-interface": {"op": "one-of", "values": ["08:*:*"] * most}}
    assert asked(rule, {"interfaces": ["08:06:50"]}) == {"match": True}
    rule["with-interface"]["values"].append("08:*:*")
    assert (
        asked(rule, {"interfaces": ["08:06:50"]})["place"]
        == "rule.with-interface.values"
    )


def test_interfaces_are_bounded():
    most = limits.DEVICE_INTERFACES
    assert asked({}, {"interfaces": ["08:06:50"] * most}) == {"match": True}
    answer = asked({}, {"interfaces": ["08:06:50"] * (most + 1)})
    assert answer["place"] == "device.interfaces"


def test_texts_are_bounded():
    text = "s" * limits.DEVICE_TEXT_CHARS
    assert asked({"serial": text}, {"serial": text}) == {"match": True}
    assert asked({}, {"serial": text + "s"})["place"] == "device.serial"
    assert asked({"serial": text + "s"}, {})["place"] == "rule.serial"


def test_conditions_are_shown_as_they_are_written():
    assert str(condition("id", "equals", ["1234:*"])) == "1234:*"
    assert (
        str(Condition("one-of", condition("id", "one-of", ["1234:*"]).patterns))
        == "one-of{1234:*}"
    )


def batch(text: bytes) -> tuple[int, list[dict[str, object]]]:
    done = subprocess.run(
        [sys.executable, "-m", "broker.cli.app", "device", "match", "--batch"],
        input=text,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == b""
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_batch_answers_each_line_in_order_bad_ones_too():
    good = b'{"rule": {"with-interface": "08:*:*"}, "device": {"interfaces": ["08:06:50"]}}'
    long = b'{"rule": "' + b"x" * (3 * limits.DEVICE_LINE_BYTES) + b'"}'
    code, answers = batch(b"\n".join([good, b"{", b"", long, b"\xff", good]))
    assert code == 1
    assert [answer["match"] for answer in answers] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    assert all("error" in answer for answer in answers[1:5])
    assert "bytes" in str(answers[3]["error"])


def test_batch_of_understood_lines_ends_with_0():
    good = b'{"rule": {}, "device": {"interfaces": ["03:01:01"]}}\n'
    assert batch(good) == (0, [{"match": False}])


@pytest.mark.parametrize("more", [0, 1])
def test_a_line_is_bounded(more: int):
    line = b'{"rule": {}, "device": {}}'
    line += b" " * (limits.DEVICE_LINE_BYTES - len(line) + more)
    code, answers = batch(line + b"\n" + b'{"rule": {}, "device": {}}\n')
    assert code == more
    assert [answer["match"] for answer in answers] == [not more, True]
