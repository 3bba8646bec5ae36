"""Memory of machines whose image is a disk, and of those that have it in common.

    python -m tests.bench.memory.images [--way disk|shared] [--json] [COUNT…]

For each way (``shared_image = false`` and ``true``) and each COUNT (1 4 16): that many
booted machines of a running broker, each with a terminal's window; the memory of their
QEMUs and vsock backends (Pss of /proc/PID/smaps_rollup) in all, what each further
machine added, and the part of the image that is in the host's page cache
(fincore(1)), which the first way has beside the machines and the second one mostly in
them.  Also the median of the seconds from the request to the window.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import trio

from tests.bench.launch.__main__ import pss
from tests.bench.memory.__main__ import SETTLE_SECONDS, machines
from tests.kit.world import World, record, the_image, world

WAYS = {
    "disk": record(launch='fork = "no"'),
    "shared": record(launch='fork = "no"\nshared_image = true'),
}
_MIB = 1 << 20


def cached(path: Path) -> float:
    """Return how many MiB of a file are in the page cache."""
    words = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return int(done.stdout) / _MIB


async def measure(
    w: World, way: str, root: Path, counts: list[int]
) -> list[dict[str, float]]:
    """Start machines of one way until the largest count; return a row for each count."""
    names: list[str] = []
    seconds: list[float] = []
    rows: list[dict[str, float]] = []
    for number in range(max(counts)):
        began = time.monotonic()
        names.append(await w.window(way, f"{way}-{number}"))
        seconds.append(time.monotonic() - began)
        if len(names) not in counts:
            continue
        await trio.sleep(SETTLE_SECONDS)
        found = await machines(w, names)
        total = sum(pss(pid) for pids in found for pid in pids)
        before = rows[-1] if rows else {"machines": 0.0, "mib": 0.0}
        more = len(names) - before["machines"]
        rows.append(
            {
                "machines": len(names),
                "mib": total,
                "each further": (total - before["mib"]) / more,
                "image cached": cached(root),
                "window seconds": statistics.median(seconds),
            }
        )
        text = ", ".join(f"{key} {value:.1f}" for key, value in rows[-1].items())
        print(f"{way}: {text}", flush=True)
    await w.stop()
    return rows


async def main(ways: list[str], counts: list[int]) -> dict[str, list[dict[str, float]]]:
    """Measure and print a table."""
    root = (await the_image()).root
    async with world(WAYS) as w:
        found = {way: await measure(w, way, root, counts) for way in ways}
    heads = list(found[ways[0]][0])
    print("| | " + " | ".join(heads) + " |")
    print("|" + " --- |" * (len(heads) + 1))
    for way, rows in found.items():
        for row in rows:
            cells = " | ".join(f"{row[head]:.1f}" for head in heads)
            print(f"| {way} | {cells} |")
    return found


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory.images")
    parser.add_argument("counts", metavar="COUNT", nargs="*", type=int)
    parser.add_argument("--way", action="append", choices=tuple(WAYS))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    words = arguments()
    result = trio.run(main, words.way or list(WAYS), sorted(words.counts or [1, 4, 16]))
    if words.json:
        print(json.dumps(result))
