"""What our end of waypipe's wire costs, beside the real client.

    python -m tests.bench.waypipe [--json FILE] [--quick] [--suite SUITE]

The same application through the same ``waypipe server``, its stream decoded by
our end with the filter and alone, by the real client alone, and by the real
client with the filter after it, in turns: frames, CPU time of everything on
the viewer's side but the compositor, latency, private memory.  What is alone
has no frame and no filter in its figures.  ``--suite`` takes server and client
of another Debian (``sid``: the ones in Rust), in a separate root.

Before that, diffs alone: our loop over their spans beside a compiled one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.helpers.process.spawn import DEVNULL, Child, spawn
from tests.bench.wayland.firefox import Watch, clip, gone
from tests.bench.wayland.peers import cpu_of, family, memory_of
from tests.bench.waypipe import spans
from tests.kit.eventually import eventually
from tests.kit.result_file import result_file
from tests.kit.vm.suite_root import inside, suite_root
from tests.kit.wayland.compositor import desktop
from tests.kit.waypipe.stand import SERVER, server_of

ROOT = Path(__file__).resolve().parents[3]
FILTER = "tests.kit.wayland.filter_process"
LOADS = {
    "all": "1280x800, every byte changes",
    "comb": "1280x800, one word in 32 changes",
    "smoke": "weston-smoke",
    "page": "Firefox, 720p30 page",
    "mpv": "mpv, 720p30",
    "foot": "foot, idle",
    "sync": "wl_display.sync",
    "many": "a connection more",
}
_NAN = float("nan")


@dataclass
class End:
    """One way to decode a stream: its processes and the socket for servers."""

    name: str
    path: Path
    children: list[Child]

    def cpu(self) -> float:
        """CPU seconds so far, also of children that have ended."""
        return sum(cpu_of(child.pid) for child in self.children)

    def memory(self) -> int:
        """Private memory, KiB."""
        return sum(memory_of(pid) for pid in self._pids())

    def share(self) -> int:
        """Memory, KiB, where pages that several processes have are parted among them."""
        found = 0
        for pid in self._pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                found += int(rollup.partition("\nPss:")[2].split()[0])
        return found

    def _pids(self) -> set[int]:
        return {pid for child in self.children for pid in family(child.pid)}


@dataclass
class Row:
    """The results of one end under one load, a value for each repetition.

    ``frames`` a second; ``dropped`` of a video's; ``cpu`` as a share of a
    core; ``p50`` and ``p99`` of the latency, us; private ``memory``, KiB.
    """

    frames: list[float] = field(default_factory=list)
    dropped: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def add(self, **values: float) -> None:
        """One repetition; a missing value was not measured."""
        for name, kept in vars(self).items():
            kept.append(values.get(name, _NAN))


def filtered(comp: HeadlessCompositor, listen: Path, *options: str) -> Child:
    """Our filter before the compositor."""
    words = [
        sys.executable,
        "-m",
        FILTER,
        "--sandbox",
        "bench",
        "--listen",
        str(listen),
    ]
    env = {**comp.environment, "PYTHONPATH": str(ROOT)}
    return spawn([*words, *options], env=env, stderr=DEVNULL)


def plain(comp: HeadlessCompositor, listen: Path) -> Child:
    """Our end of the wire with no filter after it."""
    words = [sys.executable, "-m", "tests.bench.waypipe.plain", str(listen)]
    env = {**comp.environment, "PYTHONPATH": str(ROOT)}
    return spawn(words, env=env, stderr=DEVNULL)


@asynccontextmanager
async def ends(comp: HeadlessCompositor, root: Path | None):
    """All four, running."""
    base = comp.display.parent
    beginning: Sequence[str] = () if root is None else inside(root, str(base))

    def client(path: Path, display: Path) -> Child:
        env = {**comp.environment, "WAYLAND_DISPLAY": str(display)}
        return spawn(
            [*beginning, *SERVER, "-s", path, "client"], env=env, stderr=DEVNULL
        )

    async with AsyncExitStack() as stack:
        made: list[End] = []

        async def started(path: Path, child: Child) -> Child:
            stack.push_async_callback(child.stop)

            async def there() -> bool:
                return path.is_socket()

            await eventually(there)
            return child

        async def add(name: str, start: Callable[[Path], Child], *more: Child) -> None:
            path = base / name.replace(" ", "-")
            made.append(End(name, path, [await started(path, start(path)), *more]))

        await add("our end and filter", lambda path: filtered(comp, path, "--waypipe"))
        await add("our end alone", lambda path: plain(comp, path))
        await add("client alone", lambda path: client(path, comp.display))
        inner = base / "inner"
        first = await started(inner, filtered(comp, inner))
        await add("client and filter", lambda path: client(path, inner), first)
        yield made


class Bench:
    """What all measurements have in common."""

    def __init__(
        self, comp: HeadlessCompositor, suite: str, seconds: float, place: Path
    ) -> None:
        self.comp, self.suite, self.seconds, self.place = comp, suite, seconds, place
        self._profiles = 0

    def _spawn(self, display: Path, *argv: str, output: int = DEVNULL) -> Child:
        env = {
            **self.comp.environment,
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.place),
            "GDK_BACKEND": "wayland",
            "MOZ_ENABLE_WAYLAND": "1",
            "WAYLAND_DISPLAY": str(display),
        }
        return spawn(argv, env=env, stdout=output, stderr=DEVNULL)

    async def _drawn(self, display: Path, kind: str) -> list[float]:
        """Run a client that draws; return its output."""
        read, write = os.pipe2(os.O_CLOEXEC)
        words = (
            sys.executable,
            "-m",
            "tests.bench.waypipe.draw",
            kind,
            str(self.seconds),
        )
        app = self._spawn(display, *words, output=write)
        os.close(write)
        with os.fdopen(read) as said:
            text = await trio.to_thread.run_sync(said.read)
        await app.wait()
        return [float(word) for word in text.split()]

    async def measure(self, end: End, load: str, row: Row) -> None:
        """Run a load through an end, with a separate waypipe server."""
        async with server_of(self.suite, end.path) as display:
            match load:
                case "all" | "comb" | "sync":
                    await self._client(end, display, load, row)
                case "page":
                    await self._page(end, display, row)
                case "many":
                    await self._many(end, display, row)
                case _:
                    await self._program(end, display, load, row)

    async def _client(self, end: End, display: Path, load: str, row: Row) -> None:
        memory: list[int] = []

        async def look() -> None:
            await trio.sleep(self.seconds * 0.8)
            memory.append(end.memory())

        before = end.cpu()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            *drawn, p50, p99 = await self._drawn(display, load)
        took = drawn[1] if drawn else self.seconds
        row.add(
            frames=drawn[0] / took if drawn else _NAN,
            cpu=(end.cpu() - before) / took,
            p50=p50, p99=p99, memory=memory[0],
        )  # fmt: skip

    async def _many(self, end: End, display: Path, row: Row) -> None:
        """Memory of each of several connections that do nothing.

        The real client forks for each, and what its processes share is parted.
        """
        before = end.share()
        read, write = os.pipe2(os.O_CLOEXEC)
        words = (sys.executable, "-m", "tests.bench.waypipe.draw", "many", "1000")
        app = self._spawn(display, *words, output=write)
        os.close(write)
        try:
            async with trio.lowlevel.FdStream(read) as said:
                with trio.fail_after(60):
                    count = int(await said.receive_some())
            row.add(memory=(end.share() - before) / count)
        finally:
            await app.stop()

    async def _program(self, end: End, display: Path, load: str, row: Row) -> None:
        argv = {
            "smoke": ("weston-smoke",),
            "foot": ("foot", "sleep", "1000"),
            "mpv": ("mpv", "--no-config", "--vo=wlshm", "--ao=null", "--loop", str(self.place / "clip.webm")),
        }[load]  # fmt: skip
        app = self._spawn(display, *argv)
        try:
            before = end.cpu()
            await trio.sleep(self.seconds)
            row.add(cpu=(end.cpu() - before) / self.seconds, memory=end.memory())
        finally:
            await app.stop()

    async def _page(self, end: End, display: Path, row: Row) -> None:
        """Frames as Firefox counts them; latency of another application meanwhile."""
        self._profiles += 1
        profile = self.place / f"profile-{self._profiles}"
        profile.mkdir()
        await gone(self.comp)
        app = self._spawn(
            display, "firefox-esr", "--no-remote", "--new-instance",
            "--profile", str(profile), str(self.place / "page.html"),
        )  # fmt: skip
        try:
            watch = Watch(self.comp)
            first = await watch.played(60, 60)
            before, began = end.cpu(), trio.current_time()
            p50, p99 = await self._drawn(display, "ping")
            took = trio.current_time() - began
            spent, memory = end.cpu() - before, end.memory()
            last = await watch.played(first[0] + 1, 60)
        finally:
            await app.stop()
        shown, dropped = last[0] - first[0], last[1] - first[1]
        row.add(
            frames=(shown - dropped) / took, dropped=100 * dropped / max(1, shown),
            cpu=spent / took, p50=p50, p99=p99, memory=memory,
        )  # fmt: skip


async def live(
    repeats: int, seconds: float, suite: str, loads: Sequence[str]
) -> dict[str, dict[str, Row]]:
    """Everything, in turns."""
    rows: dict[str, dict[str, Row]] = {}
    root = await trio.to_thread.run_sync(suite_root, suite) if suite else None
    with tempfile.TemporaryDirectory(prefix="vt-") as name:
        if {"page", "mpv"} & set(loads):
            await trio.to_thread.run_sync(clip, Path(name))
        async with desktop(size=(1600, 1000)) as comp, ends(comp, root) as made:
            bench = Bench(comp, suite, seconds, Path(name))
            for number in range(repeats):
                for load in loads:
                    turn = number % len(made)
                    for end in made[turn:] + made[:turn]:
                        row = rows.setdefault(load, {}).setdefault(end.name, Row())
                        await bench.measure(end, load, row)
                print(f"repetition {number + 1}", file=sys.stderr, flush=True)
    return rows


def _cells(row: Row) -> Iterator[str]:
    def median(values: list[float], words: str) -> str:
        known = [value for value in values if not math.isnan(value)]
        return words.format(statistics.median(known)) if known else ""

    yield median(row.frames, "{:.1f}") + median(row.dropped, ", {:.1f} % dropped")
    yield median([100 * value for value in row.cpu], "{:.1f}")
    # What a machine that is busy with other things changes least.
    each = zip(row.cpu, row.frames, strict=True)
    yield median([1000 * cpu / frames for cpu, frames in each], "{:.2f}")
    yield median(row.p50, "{:.0f}") + median(row.p99, " / {:.0f}")
    yield median([value / 1024 for value in row.memory], "{:.2f}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=result_file)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--suite", default="", help="trixie or sid; this machine's else"
    )
    parser.add_argument("--loads", default=",".join(LOADS), help="some of the loads")
    options = parser.parse_args()
    cores = spans.table(5 if options.quick else 15)
    print("| spans of a diff | ours, ns | compiled, ns |\n| --- | ---: | ---: |")
    for kind, of in cores.items():
        print(f"| {kind} | {of['ours']:.0f} | {of['compiled']:.0f} |")
    repeats, seconds = (1, 4.0) if options.quick else (3, 8.0)
    sys.stdout.flush()
    rows = trio.run(live, repeats, seconds, options.suite, options.loads.split(","))
    columns = ("load", "end", "frames/s", "CPU, % of a core", "CPU, ms a frame",
               "latency p50 / p99, us", "private MiB")  # fmt: skip
    print(f"\n| {' | '.join(columns)} |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for load, ends_of in rows.items():
        for name, row in ends_of.items():
            print(f"| {LOADS[load]} | {name} | {' | '.join(_cells(row))} |")
    if options.json:
        plain = {
            load: {name: vars(row) for name, row in ends_of.items()}
            for load, ends_of in rows.items()
        }
        found = {"suite": options.suite, "spans": cores, "loads": plain}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
