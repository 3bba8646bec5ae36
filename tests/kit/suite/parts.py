"""Which long tests a run has time for: a part of all of them, by turn and by time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

UNKNOWN_SECONDS = 60.0
"""For a long test that has no recorded time yet."""
_STRIDE = 17
"""How far each turn begins from the last one's place; prime to most lengths."""


@dataclass(frozen=True)
class Plan:
    """Names to run, in order, and those of this part that there is no time for."""

    run: tuple[str, ...]
    left_out: tuple[str, ...]
    seconds: float
    """How long the run is expected to take on this machine."""


def parts_of(
    names: Sequence[str], times: Mapping[str, float], number: int
) -> list[list[str]]:
    """Divide into parts that take about equally long, in the order of ``names``.

    The longest go first, each to the part that has least so far.
    """
    parts: list[list[str]] = [[] for _ in range(number)]
    sums = [0.0] * number
    for name in sorted(names, key=lambda n: (-times.get(n, UNKNOWN_SECONDS), n)):
        least = sums.index(min(sums))
        parts[least].append(name)
        sums[least] += times.get(name, UNKNOWN_SECONDS)
    place = {name: n for n, name in enumerate(names)}
    return [sorted(part, key=place.__getitem__) for part in parts]


def plan(
    names: Sequence[str],
    times: Mapping[str, float],
    *,
    turn: int,
    number: int = 3,
    budget: float | None = None,
    slowness: float = 1.0,
    cost: Callable[[str], float] = lambda _name: 1.0,
) -> Plan:
    """Choose the part of this turn, as much of it as fits into the budget.

    ``budget`` is seconds of wall clock, None for no end; ``cost`` is the share of
    the wall clock that a test takes: 1 for one that runs alone, less beside others.
    ``number`` turns in a row see every test, where the budget has room for a part;
    otherwise the next turn of the same part begins elsewhere in it.
    """
    part = parts_of(names, times, number)[turn % number]
    start = turn // number * _STRIDE % max(1, len(part))
    run, left_out, used = [], [], 0.0
    for name in part[start:] + part[:start]:
        seconds = times.get(name, UNKNOWN_SECONDS) * slowness * cost(name)
        if budget is not None and used + seconds > budget:
            left_out.append(name)
            continue
        run.append(name)
        used += seconds
    return Plan(tuple(run), tuple(left_out), used)
