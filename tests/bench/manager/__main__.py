"""Start to the first page, idle processor time and memory of the manager.

    python -m tests.bench.manager [--sandboxes N] [--events N] [--runs N] [--imports]

On a headless sway, beside a real broker, with N records and N events in the log.  Prints
the time from the start of the process until its window is on the screen (least and
median of RUNS), the processor time of that, then the share of a core that the manager
takes in ten quiet seconds, and its memory (PSS, and the part that no other process
shares).  The compositor draws by the processor, as does GTK here.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from broker.authority.audit.store import open_store
from tests.bench.audit.__main__ import load
from tests.kit.accessibility import accessibility_bus
from tests.kit.manager import manager
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import World, world

_TICKS = os.sysconf("SC_CLK_TCK")
QUIET_SECONDS = 10.0
SETTLE_SECONDS = 5.0
RECORD = """\
class = "disposable"
display = "allow"
[label]
name = "number {number}"
colour = "green"
[launch]
kind = "bwrap"
command = ["foot"]
"""


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory(pid: int) -> dict[str, float]:
    """Return the memory of a process in MiB, by the names of smaps_rollup."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        found[name.rstrip(":")] = int(size) / 1024
    return found


async def fill(path: Path, events: int) -> None:
    """Write a log before the broker opens it."""
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    async with open_store(path) as store:
        await load(store.record, events, 900)


async def measure(w: World, runs: int) -> None:
    """Start the manager so often, and print."""
    async with accessibility_bus() as bus:
        env = {**w.environ, "DBUS_SESSION_BUS_ADDRESS": bus["DBUS_SESSION_BUS_ADDRESS"]}
        times, used = [], []
        with TemporaryDirectory() as place:
            log = Path(place) / "log"
            for run in range(runs):
                began = time.perf_counter()
                async with manager(env, log) as child:
                    await wait_window(w.comp, title="Vitrail", deadline=120)
                    times.append(time.perf_counter() - began)
                    used.append(processor_seconds(child.pid))
                    if run == runs - 1:
                        await report_quiet(child.pid)
            print(log.read_text())
    print(
        f"start to the window: least {min(times):.2f} s, median "
        f"{statistics.median(times):.2f} s; processor {min(used):.2f} s"
    )


async def report_quiet(pid: int) -> None:
    """Print what a manager takes that nobody uses."""
    await trio.sleep(SETTLE_SECONDS)
    print(f"processor until it is quiet: {processor_seconds(pid):.2f} s")
    before = processor_seconds(pid)
    await trio.sleep(QUIET_SECONDS)
    share = 100 * (processor_seconds(pid) - before) / QUIET_SECONDS
    sizes = memory(pid)
    own = sizes["Private_Dirty"] + sizes["Private_Clean"]
    print(
        f"idle: {share:.2f} % of a core; memory: PSS {sizes['Pss']:.0f} MiB, "
        f"RSS {sizes['Rss']:.0f} MiB, own {own:.0f} MiB"
    )


async def main(sandboxes: int, events: int, runs: int) -> None:
    """Measure a world with records and a log of these sizes."""
    records = {f"box-{n}": RECORD.format(number=n) for n in range(sandboxes)}
    async with world(records, image=False, start=False) as w:
        if events:
            await fill(w.paths.audit, events)
        await w.start()
        await measure(w, runs)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.manager")
    parser.add_argument("--sandboxes", type=int, default=5)
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--runs", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    words = arguments()
    trio.run(main, words.sandboxes, words.events, words.runs)
