"""How long a decision, a check and a lint take: 10, 1,000 and 10,000 rules.

    python -m tests.bench.policy [--json]

Three shapes of sets: rules about other services, about other sandboxes of the
same service, and about other targets of the same sandbox.  Five repetitions,
interleaved; the table has their median, and their range in brackets.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time

from policy.engine import Call, Engine
from policy.lint import lint
from policy.ruleset import rules_of_map
from policy.world import Domain, World

SIZES = (10, 1000, 10000)
REPETITIONS = 5
CALLS = 5000
SHAPES = {
    "other services": "svc.S{n} * work vault allow",
    "other sandboxes": "my.Service * box-{n} vault allow",
    "other targets": "my.Service * work box-{n} allow",
}
LAST = "my.Service * @tag:job @tag:safe allow\n* * * * deny\n"
CALL = Call("my.Service", "+x", "work", "vault")


def _world(size: int) -> World:
    domains = {f"box-{n}": Domain(f"box-{n}", "persistent") for n in range(size)}
    domains["work"] = Domain("work", "persistent", frozenset({"job", "a", "b"}))
    domains["vault"] = Domain("vault", "persistent", frozenset({"safe"}))
    return World(domains)


def _text(shape: str, size: int) -> dict[str, str]:
    lines = [SHAPES[shape].format(n=n) for n in range(size - 2)]
    return {"10-a.policy": "\n".join(lines) + "\n" + LAST}


def _decision(engine: Engine, world: World) -> float:
    """Microseconds for one decision."""
    answer = engine.answer
    begin = time.perf_counter()
    for _ in range(CALLS):
        answer(CALL, world)
    return (time.perf_counter() - begin) / CALLS * 1e6


def _seconds(work) -> float:
    gc.collect()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure() -> list[dict]:
    """Every row with its raw values."""
    rows = []
    for size in SIZES:
        for shape in SHAPES:
            files, world = _text(shape, size), _world(min(size, 1000))
            rules = rules_of_map(files)
            engine = Engine(rules)
            assert engine.answer(CALL, world).rule.line == size - 1
            rows.append({"size": size, "shape": shape, "decide_us": [], "check_s": [], "lint_s": [],
                         "_": (files, world, rules, engine)})  # fmt: skip
    for _ in range(REPETITIONS):
        for row in rows:
            files, world, rules, engine = row["_"]
            row["decide_us"].append(_decision(engine, world))
            row["check_s"].append(_seconds(lambda files=files: rules_of_map(files)))
            row["lint_s"].append(
                _seconds(lambda rules=rules, world=world: lint(rules, world))
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
    options.add_argument("--json", action="store_true")
    rows = measure()
    if options.parse_args().json:
        json.dump(rows, sys.stdout, indent=1)
        return
    print(
        f"{'rules':>6}  {'the others are about':<16}  {'decision, µs':<18}  {'check, s':<20}  lint, s"
    )
    for row in rows:
        print(
            f"{row['size']:>6}  {row['shape']:<20}  {_cell(row['decide_us'], '.1f'):<18}"
            f"  {_cell(row['check_s'], '.3f'):<20}  {_cell(row['lint_s'], '.3f')}"
        )


if __name__ == "__main__":
    main()
