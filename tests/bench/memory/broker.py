"""Memory of a broker's processes, idle and with one box open.

    sudo python -m tests.bench.memory.broker [--maps] [--json]

For each process of ours its name, its proportional share of memory (Pss) and its private
dirty pages, in MiB (/proc/PID/smaps_rollup): when the broker is ready, and when a
bubblewrap box's window is on the screen.  The sandbox's own programs, the tools of its
jail and the brokerctl that runs it are left out.  ``--maps``: also the largest
mappings of all together.

Nobody but root reads the authority's memory, so root starts the part with the
broker as an ordinary user (``.ci/as-user``) and measures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import trio

from tests.kit.brokerctl import running
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import World, world

SETTLE_SECONDS = 5.0
_BOX = ("run", "-q", "--bwrap", "--", "foot", "-T", "one-box", "sleep", "1000")
_KIB = 1024
_NOT_OURS = re.compile(r"^\S*(setpriv|bwrap|foot|sleep|waypipe|sh) |.*broker\.cli\.app")
"""The sandbox's programs, the tools of its jail, and the user's brokerctl."""


async def open_world() -> None:
    """Print the pids of a broker's processes in each state; a line is the answer."""
    async with world(image=False) as w:
        await _report("idle", w)
        async with running(*_BOX, env=w.environ):
            await wait_window(w.comp, title="one-box")
            await _report("one box", w)


async def _report(state: str, w: World) -> None:
    await trio.sleep(SETTLE_SECONDS)
    pids = [p for p, words in w.processes().items() if not _NOT_OURS.match(words)]
    print(json.dumps([state, pids]), flush=True)
    sys.stdin.readline()


def sizes(pid: int) -> tuple[float, float]:
    """Return Pss and private dirty memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {name: int(size.split()[0]) for name, size in (x.split(":") for x in lines)}
    return found["Pss"] / _KIB, found["Private_Dirty"] / _KIB


def largest(pids: list[int]) -> Counter[str]:
    """Return the MiB (Pss) of each mapped file, and of memory without a file."""
    found: Counter[str] = Counter()
    for pid in pids:
        name = ""
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            words = line.split()
            if "-" in words[0]:
                name = words[5] if len(words) > 5 else "[anonymous]"
            elif words[0] == "Pss:":
                found[name] += int(words[1]) / _KIB
    return found


def show(state: str, pids: list[int], *, maps: bool) -> list[list[str | float]]:
    """Print a table and return it."""
    rows: list[list[str | float]] = []
    total = 0.0
    for pid in sorted(pids):
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        pss, dirty = sizes(pid)
        total += pss
        rows.append([name, pss, dirty])
        print(f"  {name:16} {pss:6.1f} {dirty:6.1f}")
    print(f"{state}: {total:.1f} MiB in {len(pids)} processes", flush=True)
    if maps:
        for name, size in largest(pids).most_common(40):
            print(f"    {size:6.2f} {name}")
    return rows


def main(*, maps: bool) -> dict[str, list[list[str | float]]]:
    """Measure and print."""
    if os.getuid() != 0:
        sys.exit("only root may look at the authority's memory")
    words = [".ci/as-user", __spec__.name, "--world"]
    found = {}
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("["):
                state, pids = json.loads(line)
                found[state] = show(state, pids, maps=maps)
                child.stdin.write("\n")
                child.stdin.flush()
    if child.returncode:
        sys.exit("the broker's part failed")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory.broker")
    parser.add_argument("--world", action="store_true", help=argparse.SUPPRESS)
    for word in ("json", "maps"):
        parser.add_argument(f"--{word}", action="store_true")
    options = parser.parse_args()
    if options.world:
        trio.run(open_world)
    else:
        measured = main(maps=options.maps)
        if options.json:
            print(json.dumps(measured))
