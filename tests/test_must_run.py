"""The list of tests that must run names tests that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = [
    line
    for line in Path(__file__).with_name("must_run.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize("line", LINES)
def test_it_is_there(line):
    path, _, name = line.partition("::")
    text = (ROOT / path).read_text()
    assert not name or f"def {name}(" in text


def test_no_line_twice():
    assert len(set(LINES)) == len(LINES)
