"""A window beside another sandbox's applications that send as fast as they can.

``python -m tests.bench.wayland.flood SOCKET CLIENTS KIND`` is that other sandbox.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.helpers.process.spawn import DEVNULL, spawn
from broker.jail.wayland.protocol import emit
from tests.bench.wayland import loads
from tests.bench.wayland.peers import ROOT, cpu_of, filter_before
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop, wait_window

_AT_ONCE = 1000
_CHILDREN = 40


@dataclass(frozen=True)
class Beside:
    """How a window fared: microseconds of each round trip, its animation."""

    trips: list[float]
    frames: float
    worst: float
    compositor: float
    flooding: float
    """CPU, of one core, of sway and of the other sandbox's filter."""


def _nothing(_: Window, surface: int) -> bytes:
    return emit.commit(surface)


def _damaged(_: Window, surface: int) -> bytes:
    return emit.damage(surface, 0, 0, 200, 150) + emit.commit(surface)


def _with_children(client: Window, surface: int) -> bytes:
    for n in range(_CHILDREN):
        child = client.surface()
        client.child(child, surface, n, n)
        client.paint(child, 4, 4, 0xFF00FFFF)
        client.send(child, "commit")
    client.send(surface, "commit")
    client.roundtrip()
    return emit.commit(surface)


KINDS: dict[str, Callable[[Window, int], bytes]] = {
    "empty commits": _nothing,
    "damage and commits": _damaged,
    f"commits of {_CHILDREN} children": _with_children,
}


def _attack(path: Path, kind: str) -> None:
    with Window(path).start() as client:
        surface, _, _ = client.show(200, 150, 0xFFFF0000)
        data = KINDS[kind](client, surface) * _AT_ONCE
        client.sock.settimeout(None)
        while True:
            client.raw(data)


@asynccontextmanager
async def _attackers(path: Path, clients: int, kind: str):
    if not clients:
        yield
        return
    child = spawn(
        [sys.executable, "-m", __name__, str(path), str(clients), kind],
        env={"PYTHONPATH": str(ROOT)},
        stdout=DEVNULL,
    )
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()


def _animate(path: Path, seconds: float) -> tuple[float, float]:
    """Frames a second, and the longest wait for one in milliseconds."""
    with Window(path).start() as client:
        surface, _, _ = client.show(400, 300, 0xFF00FF00)
        waits, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            client.paint(surface, 400, 300, 0xFF00FF00)
            start = time.perf_counter()
            client.shown(surface)
            client.events.clear()
            waits.append((time.perf_counter() - start) * 1000)
        return len(waits) / seconds, max(waits)


async def _measure(clients: int, kind: str, seconds: float) -> Beside:
    async with (
        desktop(config_extra="default_border none\n") as comp,
        filter_before(comp, "b-mine") as (mine, _),
        filter_before(comp, "b-other") as (other, flooded),
        _attackers(other, clients, kind),
    ):
        if clients:
            await wait_window(comp, count=clients)
        await trio.sleep(seconds)  # what a budget lets through at once is gone then
        pids = comp.child.pid, flooded.pid
        before, began = [cpu_of(pid) for pid in pids], time.monotonic()
        trips = await trio.to_thread.run_sync(loads.pings, mine, 300)
        fps, worst = await trio.to_thread.run_sync(_animate, mine, seconds)
        took = time.monotonic() - began
        sway, other_filter = (
            (cpu_of(pid) - was) / took for pid, was in zip(pids, before, strict=True)
        )
        return Beside(trips, fps, worst, sway, other_filter)


async def measure(seconds: float, repeats: int) -> dict[str, list[Beside]]:
    """Each kind of flood, from none, one and eight clients, in turns."""
    found: dict[str, list[Beside]] = defaultdict(list)
    for _ in range(repeats):
        found["nobody"].append(await _measure(0, "", seconds))
        for kind in KINDS:
            for clients in (1, 8):
                row = await _measure(clients, kind, seconds)
                found[f"{clients}: {kind}"].append(row)
    return found


def print_table(found: dict[str, list[Beside]]) -> None:
    """Medians of all repetitions, but the longest wait of all for a frame."""
    print(
        f"\n{'beside':28}{'sync p50':>9}{'p99 us':>8}{'frames/s':>9}{'worst ms':>9}"
        f"{'sway %':>8}{'its filter %':>13}"
    )
    for name, rows in found.items():
        cuts = statistics.quantiles([t for r in rows for t in r.trips], n=100)
        print(
            f"{name:28}{cuts[49]:9.0f}{cuts[98]:8.0f}"
            f"{statistics.median(r.frames for r in rows):9.1f}"
            f"{max(r.worst for r in rows):9.1f}"
            f"{100 * statistics.median(r.compositor for r in rows):8.0f}"
            f"{100 * statistics.median(r.flooding for r in rows):13.0f}"
        )


def main() -> None:
    """The other sandbox: so many clients until it is ended."""
    path, clients, kind = sys.argv[1:]
    for _ in range(int(clients)):
        threading.Thread(target=_attack, args=(Path(path), kind)).start()


if __name__ == "__main__":
    main()
