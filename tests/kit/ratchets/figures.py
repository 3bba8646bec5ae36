"""Print the size of the project, and compare it with what the last commit recorded.

``python -m tests.kit.ratchets.figures`` prints; ``--check`` fails if product or test code
has grown, or what ``calls`` counts; ``--write`` records the present sizes in tests/figures.tsv, which belongs to
the commit that grows, together with the reason.  Lines of code are lines of Python
without blank lines, comments and docstrings; they are recorded by folder, because a row
for each file would change with every commit.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter

from docs.tables.imports import size_of_text
from tests.kit.ratchets.calls import measure_calls
from tests.kit.ratchets.tree import (
    PRODUCT,
    ROOT,
    TESTS,
    read_rows,
    tracked_files,
    write_rows,
)

RECORD = ROOT / "tests/figures.tsv"
HEADING = "sizes by folder; printed by 'make figures WRITE=1'; do not edit"
CODE = "lines of code"
MODULES = "modules"
WORDS = "words of documentation"
CALLS = "broker, calls"
"""The first column of what ``calls`` counts."""


def measure() -> tuple[dict[tuple[str, str], int], list[int]]:
    """Return the sizes by folder and measure, and the product's lines of code by module."""
    sizes: Counter[tuple[str, str]] = Counter()
    modules = []
    for name, text in tracked_files(".py"):
        if name.startswith(tuple(f"{top}/" for top in (*PRODUCT, *TESTS))):
            folder = "/".join(name.split("/")[:-1][:2])
            lines = size_of_text(text, ast.parse(text)).code
            sizes[folder, CODE] += lines
            sizes[folder, MODULES] += 1
            if name.startswith(tuple(f"{top}/" for top in PRODUCT)):
                modules.append(lines)
    for name, text in tracked_files(".md"):
        if not name.startswith(TESTS):
            sizes[name.split("/")[0], WORDS] += len(text.split())
    for name, count in measure_calls().items():
        sizes[CALLS, name] = count
    return dict(sizes), modules


def totals(sizes: dict[tuple[str, str], int]) -> dict[str, int]:
    """Return the sums that are compared and printed."""
    return {
        f"product, {CODE}": _total(sizes, CODE, PRODUCT),
        f"product, {MODULES}": _total(sizes, MODULES, PRODUCT),
        f"tests and fuzz, {CODE}": _total(sizes, CODE, TESTS),
        WORDS: sum(count for (_, measure), count in sizes.items() if measure == WORDS),
        **{name: count for (folder, name), count in sizes.items() if folder == CALLS},
    }


def _total(
    sizes: dict[tuple[str, str], int], measure: str, tops: tuple[str, ...]
) -> int:
    return sum(
        count
        for (folder, name), count in sizes.items()
        if name == measure and folder.split("/")[0] in tops
    )


def growth(
    sizes: dict[tuple[str, str], int], record: dict[tuple[str, str], int]
) -> list[str]:
    """Return a sentence for each sum of code or calls that is larger than recorded."""
    previous, now = totals(record), totals(sizes)
    return [
        f"{name}: {now[name]}, and {previous.get(name, 0)} are recorded"
        for name in now
        if (CODE in name or (CALLS, name) in sizes)
        and now[name] > previous.get(name, 0)
    ]


def main(arguments: list[str]) -> int:
    """Print, check or record the sizes; return the exit code."""
    sizes, modules = measure()
    if "--write" in arguments:
        write_rows(RECORD, HEADING, sizes)
    previous = totals(read_rows(RECORD))
    for name, count in totals(sizes).items():
        print(f"{count:8,}  {name} ({count - previous.get(name, 0):+,})")
    print(f"{statistics.median(modules):8,.0f}  lines of code of the median module")
    if "--check" in arguments and (problems := growth(sizes, read_rows(RECORD))):
        print("\n".join(f"figures: {problem}" for problem in problems), file=sys.stderr)
        print(
            "figures: make it smaller; or run 'make figures WRITE=1', and say in the"
            " commit why it grows",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
