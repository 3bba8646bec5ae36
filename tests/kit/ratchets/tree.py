"""The files of the checkout that the ratchets count, and the format of their records."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[3]
PRODUCT = ("broker", "policy", "shims")
TESTS = ("tests", "fuzz")
_SKIPPED = ("tests/corpus/",)
"""Recorded input of others: nobody here writes it."""


def tracked_files(*suffixes: str) -> Iterator[tuple[str, str]]:
    """Yield path and text of each file that git tracks or would add, sorted by path.

    Raises subprocess.CalledProcessError outside of a git checkout.
    """
    listing = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in sorted(set(listing.split("\0"))):
        path = ROOT / name
        if name.endswith(suffixes) and not name.startswith(_SKIPPED) and path.is_file():
            yield name, path.read_text()


def git(*arguments: str) -> str:
    """Return the output of a git command in this checkout."""
    argv = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def read_rows(path: Path) -> dict[tuple[str, str], int]:
    """Return the counts of a generated file by its first two columns."""
    lines = [
        line for line in path.read_text().splitlines() if line[:1] not in ("", "#")
    ]
    rows = [line.split("\t") for line in lines]
    return {(first, second): int(count) for first, second, count in rows}


def write_rows(path: Path, heading: str, rows: Mapping[tuple[str, str], int]) -> None:
    """Write a generated file: a comment that says how, then a line for each count."""
    lines = [f"{first}\t{second}\t{n}" for (first, second), n in sorted(rows.items())]
    path.write_text("\n".join([f"# {heading}", *lines]) + "\n")
