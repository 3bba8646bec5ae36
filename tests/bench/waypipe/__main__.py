"""What our end of waypipe's wire costs, beside the real client.

    python -m tests.bench.waypipe [--json FILE] [--quick]

The same application behind the same ``waypipe server``, its stream decoded by
our end with the filter, by the real client alone, and by the real client with
the filter behind it, in turns: frames, CPU time of everything on the viewer's
side but the compositor, private memory.  The figures of the real client alone
have no frame and no filter in them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from broker.launch.compositor import HeadlessCompositor
from broker.launch.spawn import DEVNULL, Child, spawn
from tests.bench.wayland.peers import cpu_of, memory_of
from tests.kit.compositor import desktop, until

ROOT = Path(__file__).resolve().parents[3]
FILTER = "from broker.cli.proxy_wayland import command; command()"
PLAIN = ("waypipe", "--compress", "none", "--no-gpu")
LOADS = {
    "all": "1280x800, every byte changes",
    "comb": "1280x800, one word in 32 changes",
    "smoke": "weston-smoke",
    "foot": "foot, idle",
    "sync": "wl_display.sync, p50 and p99 us",
}


@dataclass
class End:
    """One way to decode a stream: its processes and the socket for servers."""

    name: str
    path: Path
    children: list[Child]

    def pids(self) -> set[int]:
        """All of its processes now, with those that serve one connection."""
        found = {child.pid for child in self.children}
        for pid in list(found):
            tasks = Path(f"/proc/{pid}/task/{pid}/children")
            if tasks.exists():
                found |= {int(one) for one in tasks.read_text().split()}
        return found

    def cpu(self) -> float:
        """CPU seconds so far, also of children that have ended."""
        return sum(cpu_of(child.pid) for child in self.children)

    def memory(self) -> int:
        """Private memory, KiB."""
        return sum(memory_of(pid) for pid in self.pids())


@dataclass
class Row:
    """What was measured of one end under one load, a value for each repetition."""

    frames: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    tail: list[float] = field(default_factory=list)


def filtered(comp: HeadlessCompositor, listen: Path, *options: str) -> Child:
    """A filter of ours before the compositor."""
    words = [
        sys.executable,
        "-c",
        FILTER,
        "--sandbox",
        "bench",
        "--listen",
        str(listen),
    ]
    env = {**comp.environment, "PYTHONPATH": str(ROOT)}
    return spawn([*words, *options], env=env, stderr=DEVNULL)


def client(comp: HeadlessCompositor, path: Path, display: Path) -> Child:
    """The real client before some display."""
    env = {**comp.environment, "WAYLAND_DISPLAY": str(display)}
    return spawn([*PLAIN, "-s", path, "client"], env=env, stderr=DEVNULL)


@asynccontextmanager
async def ends(comp: HeadlessCompositor):
    """All three, running."""
    base = comp.display.parent
    async with AsyncExitStack() as stack:
        made: list[End] = []

        async def add(name: str, start: Callable[[Path], list[Child]]) -> None:
            path = base / name.replace(" ", "-")
            end = End(name, path, start(path))
            for child in end.children:
                stack.push_async_callback(child.stop)

            async def there() -> bool:
                return path.is_socket()

            await until(there)
            made.append(end)

        await add("vitrail", lambda path: [filtered(comp, path, "--waypipe")])
        await add("client", lambda path: [client(comp, path, comp.display)])
        inner = base / "inner"
        first = filtered(comp, inner)
        stack.push_async_callback(first.stop)

        async def inside() -> bool:
            return inner.is_socket()

        await until(inside)
        await add("client and filter", lambda path: [client(comp, path, inner), first])
        yield made


async def measure(
    comp: HeadlessCompositor, end: End, load: str, seconds: float
) -> tuple:
    """Run a load behind an end; frames a second, share of a core, KiB."""
    read, write = os.pipe2(os.O_CLOEXEC)
    draw = [sys.executable, "-m", "tests.bench.waypipe.draw", load, str(seconds)]
    programs = {"smoke": ["weston-smoke"], "foot": ["foot", "sleep", "1000"]}
    env = {**comp.environment, "PYTHONPATH": str(ROOT)}
    before = end.cpu()
    app = spawn(
        [*PLAIN, "-s", end.path, "server", "--", *programs.get(load, draw)],
        env=env, stdout=write, stderr=DEVNULL,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as said:
        frames = float("nan")
        if load in programs:
            await trio.sleep(seconds)
            memory = end.memory()
            spent = end.cpu() - before
            await app.stop()
        else:
            await trio.sleep(seconds * 0.8)
            memory = end.memory()
            await app.wait()
            spent = end.cpu() - before
            one, other = (await trio.to_thread.run_sync(said.read)).split()
            if load == "sync":
                return float(one), spent / seconds, memory, float(other)
            frames = int(one) / float(other)
    return frames, spent / seconds, memory, float("nan")


async def live(repeats: int, seconds: float) -> dict[str, dict[str, Row]]:
    """Everything, in turns."""
    rows: dict[str, dict[str, Row]] = {}
    async with desktop(size=(1600, 1000)) as comp, ends(comp) as made:
        for number in range(repeats):
            for load in LOADS:
                turn = number % len(made)
                for end in made[turn:] + made[:turn]:
                    row = rows.setdefault(load, {}).setdefault(end.name, Row())
                    frames, cpu, memory, tail = await measure(comp, end, load, seconds)
                    row.frames.append(frames)
                    row.tail.append(tail)
                    row.cpu.append(cpu)
                    row.memory.append(memory)
            print(f"repetition {number + 1}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rows = trio.run(live, 1 if options.quick else 3, 3.0 if options.quick else 8.0)
    print("| load | end | frames/s, or us | CPU, % of a core | private MiB |")
    print("| --- | --- | ---: | ---: | ---: |")
    for load, ends_of in rows.items():
        for name, row in ends_of.items():
            frames = statistics.median(row.frames)
            shown = "-" if math.isnan(frames) else f"{frames:.1f}"
            if not math.isnan(row.tail[0]):
                shown = f"{frames:.0f} / {statistics.median(row.tail):.0f} us"
            cpu = 100 * statistics.median(row.cpu)
            memory = statistics.median(row.memory) / 1024
            print(f"| {LOADS[load]} | {name} | {shown} | {cpu:.1f} | {memory:.1f} |")
    if options.json:
        plain = {
            load: {name: vars(row) for name, row in ends_of.items()}
            for load, ends_of in rows.items()
        }
        options.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
