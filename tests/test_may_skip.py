"""Skips in CI: those of the list alone, which names tests that exist."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.kit.suite.skips import ALLOWED, unlisted_skip

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ALLOWED)
def test_line_names_a_test_and_a_reason(name):
    path, _, function = name.partition("::")
    text = (ROOT / path).read_text()
    assert not function or f"def {function}(" in text
    assert ALLOWED[name]


def skipped(nodeid, reason, **more):
    report = SimpleNamespace(skipped=True, longrepr=("file", 1, reason), **more)
    return unlisted_skip(nodeid, report)


@pytest.mark.parametrize(
    ("nodeid", "reason"),
    [
        ("tests/e2e/test_microvm_accel.py::test_any[a]", "Skipped: needs a KVM"),
        ("tests/integration/test_control.py::test_varlinkctl[here]", "Skipped: x"),
        ("tests/e2e/test_podman_rootful.py::t", "Skipped: root's half of this file"),
        ("tests/attack/test_guards.py::t", "Skipped: an hour: 'make mutate' runs it"),
    ],
)
def test_skip_of_the_list_is_allowed(nodeid, reason):
    assert skipped(nodeid, reason) == ""


def test_skip_that_is_not_listed_says_what_to_do():
    text = skipped("tests/attack/test_disks.py::test_other", "Skipped: no disk")
    assert "tests/attack/test_disks.py::test_other was skipped in CI" in text
    assert "no disk" in text
    assert "tests/may_skip.txt" in text


def test_test_that_is_expected_to_fail_is_not_skipped():
    assert skipped("tests/a.py::b", "", wasxfail="reason: known") == ""


def test_name_that_begins_like_a_listed_one_is_not_listed():
    assert skipped("tests/integration/test_control.py::test_varlinkctl_two", "x")
    assert skipped("tests/e2e/test_life.pyx::test", "x")
