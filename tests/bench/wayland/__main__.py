"""What the filter costs: its core on recorded sessions, and in front of sway.

    python -m tests.bench.wayland [--json FILE] [--quick]

Core: CPU time for each message of the recorded sessions, beside a dict look-up
measured in the same run, because machines differ.  Round trip: wl_display.sync
through a filter in a process of its own and directly, in turns.  Frames: a
client that draws on every frame callback, through the filter and directly,
with the CPU time of the filter's process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio

from broker.launch.spawn import spawn
from tests.kit import wayland_sessions
from tests.kit.compositor import desktop, until
from tests.kit.wayland_client import HEADER, Client, Window

ROOT = Path(__file__).resolve().parents[3]
REPEATS = 5
DICT_GET_OF_PROTOTYPE = 16.0
"""ns on the machine where the prototype took 1.4 us for a message."""


def dict_get() -> float:
    """Nanoseconds for one look-up in a dict, in a loop, at best."""
    table = dict.fromkeys(range(1000), 1)
    get = table.get

    def once() -> float:
        count = 200_000
        start = time.process_time()
        for _ in range(count):
            get(500)
        return (time.process_time() - start) / count * 1e9

    return min(once() for _ in range(5))


def count(chunks: list[tuple[str, bytes, int]]) -> int:
    """Messages of both sides."""
    total = 0
    for side in "cs":
        data = b"".join(d for s, d, _ in chunks if s == side)
        pos = 0
        while pos + 8 <= len(data):
            pos += HEADER.unpack_from(data, pos)[2]
            total += 1
    return total


def core() -> list[dict[str, object]]:
    """CPU time of the core for each message of each recording."""
    rows = []
    for path in sorted((ROOT / "tests/corpus/wayland").glob("*.session")):
        chunks = wayland_sessions.load(path)
        messages = count(chunks)
        values, lookups = [], []
        for _ in range(REPEATS):
            lookups.append(dict_get())
            start = time.process_time()
            fed = wayland_sessions.replay(chunks)
            values.append((time.process_time() - start) / messages * 1e6)
            assert fed.fault is None, fed.fault
        best, lookup = min(values), min(lookups)
        rows.append(
            {
                "session": path.stem,
                "messages": messages,
                "us": best,
                "dict_ns": lookup,
                "scaled_us": best * DICT_GET_OF_PROTOTYPE / lookup,
                "raw": values,
            }
        )
    return rows


def pings(path: Path, rounds: int) -> list[float]:
    """Round trips of wl_display.sync, microseconds."""
    took = []
    with Client(path).start() as client:
        for _ in range(rounds):
            start = time.perf_counter()
            client.roundtrip()
            took.append((time.perf_counter() - start) * 1e6)
            client.events.clear()
    return took


def frames(path: Path, seconds: float) -> float:
    """Frames a second of a client that draws at every callback."""
    with Window(path).start() as client:
        surface, _, _ = client.show(400, 300, 0xFF00FF00)
        buffers = [client.buffer(400, 300, 0xFF000000 | n) for n in (0xFF, 0xFF00)]
        shown, start = 0, time.monotonic()
        while time.monotonic() - start < seconds:
            client.send(surface, "attach", buffers[shown % 2], 0, 0)
            client.send(surface, "damage", 0, 0, 400, 300)
            client.shown(surface)
            client.events.clear()
            shown += 1
        return shown / (time.monotonic() - start)


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> int:
    """Private memory of a process, KiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    lines = [line.split() for line in rollup.splitlines()]
    return sum(int(f[1]) for f in lines if f[0] in {"Private_Clean:", "Private_Dirty:"})


async def live(seconds: float, rounds: int) -> dict[str, object]:
    """Round trips and frames, filtered and direct, in turns."""
    async with desktop() as comp:
        path = comp.display.with_name("bench")
        child = spawn(
            [sys.executable, "-c", _START, "--sandbox", "bench", "--listen", str(path)],
            env={**comp.environment, "PYTHONPATH": str(ROOT)},
        )

        async def there() -> bool:
            return path.is_socket()

        await until(there)
        result: dict[str, object] = {"sync": {}, "frames": {}}
        trips: dict[str, list[float]] = {"direct": [], "filtered": []}
        rates: dict[str, list[float]] = {"direct": [], "filtered": []}
        cpu = 0.0
        for _ in range(REPEATS):
            for name, where in (("direct", comp.display), ("filtered", path)):
                trips[name] += await run(lambda where=where: pings(where, rounds))
                before = cpu_of(child.pid)
                rates[name].append(
                    await run(lambda where=where: frames(where, seconds))
                )
                cpu += cpu_of(child.pid) - before if name == "filtered" else 0.0
        for name, values in trips.items():
            cuts = statistics.quantiles(values, n=100)
            result["sync"][name] = {"p50": cuts[49], "p99": cuts[98]}  # type: ignore[index]
            result["frames"][name] = {
                "fps": statistics.median(rates[name]),
                "raw": rates[name],
            }  # type: ignore[index]
        result["cpu_of_one_core"] = cpu / (seconds * REPEATS)
        result["private_kib"] = memory_of(child.pid)
        await child.stop()
        return result


_START = "from broker.cli.proxy_wayland import command; command()"


async def run(function: Callable[[], object]):
    """A blocking client in a thread."""
    return await trio.to_thread.run_sync(function)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rows = core()
    print(
        f"{'session':26}{'messages':>9}{'us/message':>12}{'dict get ns':>13}{'at 16 ns':>10}"
    )
    for row in rows:
        print(
            f"{row['session']:26}{row['messages']:9}{row['us']:12.2f}{row['dict_ns']:13.1f}{row['scaled_us']:10.2f}"
        )
    result = trio.run(
        live, 1.0 if options.quick else 4.0, 300 if options.quick else 2000
    )
    for name in ("direct", "filtered"):
        sync, fps = result["sync"][name], result["frames"][name]
        print(
            f"{name:10} sync p50 {sync['p50']:6.0f} us  p99 {sync['p99']:6.0f} us   {fps['fps']:5.1f} frames/s"
        )
    print(
        f"filter: {result['cpu_of_one_core'] * 100:.1f} % of a core while animating, {result['private_kib']} KiB private"
    )
    if options.json:
        options.json.write_text(json.dumps({"core": rows, "live": result}, indent=1))


if __name__ == "__main__":
    main()
