"""How long each test takes: measured in every run, kept in a file for planning.

A line is seconds, a tab, and the test's node id.  ``tests/times.tsv`` has the tests
that take a fifth of a second or more: ``tests.kit.suite.record`` writes it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

LEAST_SECONDS = 0.2
"""Shorter tests have no line in the file; `make unit` runs them."""


def read_times(path: Path) -> dict[str, float]:
    """Seconds by node id; empty without the file.

    Raises ValueError for a line that is not ``SECONDS<TAB>NODE ID``.
    """
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            continue
        seconds, tab, name = line.partition("\t")
        if not tab or not name:
            raise ValueError(f"{path}: not SECONDS<TAB>NODE ID: {line!r}")
        found[name] = float(seconds)
    return found


def write_times(path: Path, times: Mapping[str, float], head: str = "") -> None:
    """Write them sorted by name, so that a change is a small difference."""
    lines = [f"# {line}" for line in head.splitlines()]
    lines += [f"{times[name]:.1f}\t{name}" for name in sorted(times)]
    path.write_text("\n".join(lines) + "\n")


def slowness(now: Mapping[str, float], recorded: Mapping[str, float]) -> float:
    """How many times as long the tests take in this run; 1 where nothing compares.

    Sums are compared, not tests: one that had to wait once says nothing about
    the machine.
    """
    both = [name for name in now if recorded.get(name, 0) >= LEAST_SECONDS]
    if not both:
        return 1.0
    return sum(now[name] for name in both) / sum(recorded[name] for name in both)


def total(names: Iterable[str], times: Mapping[str, float], default: float) -> float:
    """Seconds of all of these, one after another."""
    return sum(times.get(name, default) for name in names)
