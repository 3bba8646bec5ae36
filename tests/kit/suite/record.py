"""Take measured times over into ``tests/times.tsv``.

``python -m tests.kit.suite.record FILE…`` with files that ``--times-to`` wrote, on a
quiet machine.  A test that is not in them keeps its time while its file exists.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.kit.suite.plugin import ROOT, TIMES
from tests.kit.suite.times import LEAST_SECONDS, read_times, write_times

_HEAD = "Seconds on two cores, for tests that take a fifth of a second or more."


def merged(
    kept: dict[str, float], measured: dict[str, float], root: Path
) -> dict[str, float]:
    """The new times, without tests that have become short or no longer exist."""
    times = {
        name: seconds
        for name, seconds in kept.items()
        if (root / name.partition("::")[0]).exists()
    } | measured
    return {name: s for name, s in times.items() if s >= LEAST_SECONDS}


def main(files: Sequence[str]) -> None:
    """Write the file again."""
    measured: dict[str, float] = {}
    for file in files:
        measured |= read_times(Path(file))
    write_times(TIMES, merged(read_times(TIMES), measured, ROOT), _HEAD)


if __name__ == "__main__":
    main(sys.argv[1:])
