"""How long a decision, a check and a lint take: 10, 1,000 and 10,000 rules.

    python -m tests.bench.policy [--quick] [--json FILE]

The first three shapes of sets are about something else than the call that is
asked: other services, other sandboxes of the same service, other targets of
the same sandbox.  A decision must cost the same whatever their number.  The
others are what lint could stumble over: rules that never decide, conditions
between plain rules, asks by tag, wildcards between services, and all of it at
random.  Five repetitions, interleaved; the table has their median, and their
range in brackets.  The world has as many sandboxes as the set has rules, up to
1,000.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable

from policy.rules.engine import Engine, PolicyCall
from policy.rules.world import Domain, World
from policy.tools.files_in_memory import rules_of_map
from policy.tools.linting.lint import lint
from tests.kit.result_file import result_file

SIZES = (10, 1000, 10000)
REPETITIONS = 5
CALLS = 5000
CALL = PolicyCall("my.Service", "+x", "work", "vault")
LAST = "my.Service * @tag:job @tag:safe allow\n* * * * deny\n"
_TOKENS = ["*", "@anyvm", "@tag:t3", "@tag:t7", "@type:persistent", "work"]


def _random(n: int) -> str:
    rng = random.Random(n)
    box = f"box-{rng.randrange(1000)}"
    source, target = rng.choice([*_TOKENS, box]), rng.choice([*_TOKENS, box, "@default"])  # fmt: skip
    return f"s{n % 100} * {source} {target} {rng.choice(['ask', 'deny'])}"


UNRELATED: dict[str, Callable[[int], str]] = {
    "other services": lambda n: f"svc.S{n} * work vault allow",
    "other sandboxes": lambda n: f"my.Service * box-{n} vault allow",
    "other targets": lambda n: f"my.Service * work box-{n} allow",
}
"""Shapes among which the call that is asked is decided by the line before the last."""

HARD: dict[str, Callable[[int], str]] = {
    "never deciding": lambda n: f"a * @tag:t{n % 50} @tag:t{n * 7 % 50} {('allow', 'deny')[n % 2]}",
    "conditions": lambda n: (
        f"a * @anyvm @anyvm allow host=h{n}.example.org"
        if n % 2
        else f"a * box-{n % 1000} box-{n * 7 % 1000} deny"
    ),
    "asks by tag": lambda n: f"s{n} * @tag:t{n % 50} @tag:t{n * 3 % 50} ask default_target=box-{n % 1000}",
    "wildcards": lambda n: (
        f"s{n} * @tag:t{n % 50} @anyvm allow"
        if n % 2
        else f"* * @tag:t{n % 50} @tag:t{n * 3 % 50} deny"
    ),
    "random": _random,
}  # fmt: skip


def _world(size: int) -> World:
    domains = {
        f"box-{n}": Domain(
            f"box-{n}",
            "persistent",
            frozenset({f"t{n % 50}"}),
            "box-1" if n % 2 else None,
            n % 10 == 0,
        )
        for n in range(size)
    }
    domains["work"] = Domain("work", "persistent", frozenset({"job", "a", "b"}))
    domains["vault"] = Domain("vault", "persistent", frozenset({"safe"}))
    return World(domains)


def _rows(quick: bool) -> list[dict]:
    rows = []
    for size in SIZES[:2] if quick else SIZES:
        for shape, line in {**UNRELATED, **HARD}.items():
            text = "\n".join(line(n) for n in range(size - 2)) + "\n" + LAST
            files, world = {"10-a.policy": text}, _world(min(size, 1000))
            rules = rules_of_map(files)
            assert not rules.problems, rules.problems[0].render()
            engine = Engine(rules)
            number = engine.answer(CALL, world).rule.line
            assert shape in HARD or number == size - 1
            rows.append({"size": size, "shape": shape, "decide_us": [], "check_s": [], "lint_s": [],
                         "_": (files, world, rules, engine)})  # fmt: skip
    return rows


def _decision(engine: Engine, world: World) -> float:
    """Microseconds for one decision."""
    answer = engine.answer
    begin = time.perf_counter()
    for _ in range(CALLS):
        answer(CALL, world)
    return (time.perf_counter() - begin) / CALLS * 1e6


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(quick: bool = False) -> list[dict]:
    """Every row with its raw values."""
    rows = _rows(quick)
    for _ in range(2 if quick else REPETITIONS):
        for row in rows:
            files, world, rules, engine = row["_"]
            row["decide_us"].append(_decision(engine, world))
            row["check_s"].append(_seconds(lambda files=files: rules_of_map(files)))
            # A world keeps its answers: each lint has a fresh one.
            fresh = World(world.domains)
            row["lint_s"].append(
                _seconds(lambda rules=rules, fresh=fresh: lint(rules, fresh))
            )
    for row in rows:
        del row["_"]
    return rows


def _cell(values: list[float], form: str) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser()
    options.add_argument("--quick", action="store_true", help="without 10,000 rules")
    options.add_argument(
        "--json", type=result_file, help="where to write the raw values"
    )
    chosen = options.parse_args()
    rows = measure(chosen.quick)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(
        f"{'rules':>6}  {'shape':<16}  {'decision, µs':<18}  {'check, s':<20}  lint, s"
    )
    for row in rows:
        print(
            f"{row['size']:>6}  {row['shape']:<16}  {_cell(row['decide_us'], '.1f'):<18}"
            f"  {_cell(row['check_s'], '.3f'):<20}  {_cell(row['lint_s'], '.3f')}"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
