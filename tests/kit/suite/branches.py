"""How much of the cores' branches their tests take.

``make coverage``, or ``python -m tests.kit.suite.branches [CORE…]``: runs the tests of
each core alone, without integration tests, and prints the branches that were taken.
Nothing is asserted: the number is for people who compare two versions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
CORES = (
    "broker/viewer/clipboard/exchange",
    "broker/ipc/devices",
    "broker/net/link",
    "broker/jail/sound",
    "broker/core/transfer",
    "broker/jail/wayland",
    "broker/jail/wayland/waypipe",
    "policy",
)


def measure(core: str, directory: Path) -> tuple[int, int]:
    """Return branches taken, and all of a core's.  Raises when a test fails."""
    data, report = directory / "data", directory / "report.json"
    coverage = [sys.executable, "-m", "coverage"]
    source = core.replace("/", ".")
    run = [*coverage, "run", "--branch", f"--source={source}", f"--data-file={data}"]
    tests = [
        "-m",
        "pytest",
        "-q",
        "-m",
        "not long",
        "-p",
        "no:cacheprovider",
        f"tests/{core}",
    ]
    subprocess.run([*run, *tests], cwd=ROOT, check=True, stdout=sys.stderr)
    to_json = ["json", "-q", f"--data-file={data}", "-o", str(report)]
    subprocess.run([*coverage, *to_json], cwd=ROOT, check=True)
    totals = json.loads(report.read_text())["totals"]
    return totals["covered_branches"], totals["num_branches"]


def main(names: list[str]) -> None:
    """Print a line for each core, and the sum."""
    all_taken = all_branches = 0
    for core in CORES:
        if names and core.rpartition("/")[2] not in names:
            continue
        with tempfile.TemporaryDirectory() as directory:
            taken, branches = measure(core, Path(directory))
        all_taken, all_branches = all_taken + taken, all_branches + branches
        print(f"{core:18} {taken:6} of {branches:6} branches, {taken / branches:.1%}")
    share = all_taken / max(all_branches, 1)
    print(f"{'together':18} {all_taken:6} of {all_branches:6} branches, {share:.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
