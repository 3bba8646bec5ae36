"""Put holes back, one at a time, and see whether the observers find them.

    python -m tests.kit.observers.put_back [--seconds N] [--seeds N] [--on KIND] [HOLE…]

Works on a copy of the project.  A hole is put back by turning the guards off that
mend it; the random hostile client then plays on a compositor until a judge raises SeenError
or the seconds are over.  Prints steps and seconds to the finding.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.kit.guards import clipboard, mutation, wayland

HOLES: dict[str, tuple[str | mutation.Guard, ...]] = {
    "12 grabs by old serials": (
        "grabs stay in the filter", "grabs only with the keyboard",
        "grabs with a serial it got",
    ),
    "14 the cursor walks": ("windows and cursors have no offset",),
    "14 a released pointer": ("a pointer of ours on each seat",),
    "14 cursors over others": (
        mutation.Guard("cursors only on the content", "return pointer is not None", ""),
    ),
    "15 the keymap": ("a keymap is a copy",),
    "16 who does not read": ("the compositor is always heard", "who does not read is ended"),
    "17 a chord between": ("a chord is one window's",),
    "17 old serials": (
        "moves with a press that lasts", "resizes with a press that lasts",
        "window menus with a young press",
    ),
    "17 old serials of selections": (
        mutation.Guard("selections need the focus", "if False:", ""),
    ),
    "17 serials of drags": ("drags with a press that lasts",),
    "17 windows for focus": (
        "windows come at a pace", "a window that comes too fast waits",
    ),
    "touch elsewhere": ("frames of its own fingers only",),
    "18 regions": ("requests cost the bytes that go up",),
}  # fmt: skip
"""Each hole that is put back, with the guards that are turned off for it: rows of the
guard tables, or rows that put back more of the hole."""
_TEST = "tests/attack/test_wayland_observers.py"
_TESTS = {
    "18 regions": "flood_of_regions",
    "17 windows for focus": "windows_without_input and {where}",
}
"""Selects the test that finds a hole, where it is not the random hostile client's."""
_COMPOSITORS = {"17 serials of drags": "kwin", "touch elsewhere": "kwin"}
"""On which compositor by default, where the others look themselves."""


def play(directory: Path, word: str, seconds: float, seed: int) -> tuple[str, float]:
    """One run in the copy: the finding, if any, and after how long."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider",
         "--reruns=0", _TEST, "-k", word],
        cwd=directory,
        env={
            **os.environ,
            "PYTHONPATH": str(directory),
            "VITRAIL_SEED": str(seed),
            "VITRAIL_OBSERVERS_SECONDS": str(seconds),
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    seen = re.findall(r"SeenError: (.*)", done.stdout)
    steps = re.findall(r"seed \d+: (\d+) steps", done.stdout) or ["-"]
    what = seen[0] if seen else ("nothing" if not done.returncode else "no result")
    if what == "no result":
        print(done.stdout[-1500:], done.stderr[-500:])
    return f"step {steps[0]}: {what}", time.monotonic() - began


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--on", default="", metavar="KIND", help="sway, kwin, mutter …")
    parser.add_argument("holes", nargs="*")
    options = parser.parse_args()
    rows = {guard.name: guard for guard in (*wayland.GUARDS, *clipboard.GUARDS)}
    for hole, holes in HOLES.items():
        if options.holes and not any(hole.startswith(word) for word in options.holes):
            continue
        with tempfile.TemporaryDirectory(prefix="vt-holes-", dir="/tmp") as name:
            directory = Path(name)
            mutation.copy(directory)
            paths = mutation.marks(directory)
            off = [rows[g] if isinstance(g, str) else g for g in holes]
            for path in {paths[g.name] for g in off}:
                here = [g for g in off if paths[g.name] == path]
                path.write_text(mutation.turned_off(path.read_text(), *here))
            for seed in range(1, options.seeds + 1):
                where = options.on or _COMPOSITORS.get(hole, "sway")
                word = _TESTS.get(hole, "random_hostile_client and {where}")
                word = word.format(where=where)
                seen, took = play(directory, word, options.seconds, seed)
                print(f"{hole:26} seed {seed}, {took:4.0f} s, {seen}", flush=True)


if __name__ == "__main__":
    main()
