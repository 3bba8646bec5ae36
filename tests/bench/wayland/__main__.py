"""What the filter costs: its core on recorded sessions, and in front of sway.

    python -m tests.bench.wayland [--json FILE] [--quick] [--core] [--flood] [--firefox]
        [--firefox-alone] [--film]

Core: CPU time for each message of the recorded sessions, beside a dict look-up
measured in the same run, because machines differ.  Live: the same clients
directly on the compositor, through the filter, a jailed worker,
waypipe, and through waypipe and the filter, in turns within each repetition: round trips, an
animation, video, a 2560x1440 scroll, an interactive resize, each with the CPU
time of the processes between.  ``--firefox`` adds the dropped frames of a page
that plays 720p30, also through our own end of waypipe's wire; ``--film`` measures
1080p30 in Firefox and in mpv, and nothing else.  ``--flood`` measures
a window beside another sandbox's clients that send as fast as they can.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.bench.wayland import firefox, flood, loads, mpv
from tests.bench.wayland.peers import Peer, all_peers, family, memory_of
from tests.kit.result_file import result_file
from tests.kit.wayland import sessions
from tests.kit.wayland.client import HEADER
from tests.kit.wayland.compositor import desktop

ROOT = Path(__file__).resolve().parents[3]
REPEATS = 5
MESSAGES_TIMED = 8000
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
        chunks = sessions.load(path)
        messages = count(chunks)
        values, lookups = [], []
        # A short session is replayed until there is something to measure, and
        # once before: tables that are built at the first use are built once a process.
        rounds = max(1, MESSAGES_TIMED // messages)
        sessions.replay(chunks)
        for _ in range(REPEATS):
            lookups.append(dict_get())
            start = time.process_time()
            for _ in range(rounds):
                fed = sessions.replay(chunks)
                assert fed.fault is None, fed.fault
            took = time.process_time() - start
            values.append(took / messages / rounds * 1e6)
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


SCREEN = (2560, 1440)
LOADS: dict[str, Callable[[Path, float], loads.Shown]] = {
    "animation 400x300": lambda path, s: loads.animation(path, s, (400, 300)),
    "video 1280x720": loads.video,
    "scroll 2560x1440": lambda path, s: loads.animation(path, s, (2500, 1400), 1400),
    "interactive resize": loads.resize,
}


async def live(seconds: float, rounds: int, repeats: int) -> dict[str, Any]:
    """All loads on all peers, in turns."""
    trips: dict[str, list[float]] = defaultdict(list)
    shown: dict[str, dict[str, list[dict[str, float]]]] = {}
    async with (
        desktop(size=SCREEN, config_extra="default_border none\n") as comp,
        all_peers(comp) as peers,
    ):
        for _ in range(repeats):
            for peer in peers:
                trips[peer.name] += await run(loads.pings, peer.path, rounds)
            for name, load in LOADS.items():
                for peer in peers:
                    row = await _one(peer, load, seconds)
                    shown.setdefault(name, {}).setdefault(peer.name, []).append(row)
        memory = {
            peer.name: sum(memory_of(pid) for pid in family(peer.children[0].pid))
            for peer in peers[1:3]
        }
    return {"sync": trips, "shown": shown, "private_kib": memory}


async def _one(
    peer: Peer, load: Callable[[Path, float], loads.Shown], seconds: float
) -> dict[str, float]:
    before, start = peer.cpu(), time.monotonic()
    result = await run(load, peer.path, seconds)
    cpu = (peer.cpu() - before) / (time.monotonic() - start)
    return {"fps": result.fps, "late": result.late, "frames": result.frames, "cpu": cpu}


async def run(function: Callable[..., Any], *args: Any) -> Any:
    """A blocking client in a thread."""
    return await trio.to_thread.run_sync(function, *args)


def print_core(rows: list[dict[str, Any]]) -> None:
    """The core's table."""
    print(
        f"{'session':26}{'messages':>9}{'us/message':>12}{'dict get ns':>13}{'at 16 ns':>10}"
    )
    for row in rows:
        print(
            f"{row['session']:26}{row['messages']:9}{row['us']:12.2f}{row['dict_ns']:13.1f}{row['scaled_us']:10.2f}"
        )


def print_live(result: dict[str, Any]) -> None:
    """Medians of all repetitions."""
    print(f"\n{'':18}{'sync p50':>9}{'p99 us':>8}{'added p50':>11}")
    plain = statistics.median(result["sync"]["direct"])
    for name, values in result["sync"].items():
        cuts = statistics.quantiles(values, n=100)
        print(f"{name:18}{cuts[49]:9.0f}{cuts[98]:8.0f}{cuts[49] - plain:11.0f}")
    for name, peers in result["shown"].items():
        print(
            f"\n{name:18}{'frames/s':>9}{'late %':>8}{'CPU %':>8}   (CPU of the processes between)"
        )
        for peer, rows in peers.items():
            fps = statistics.median(r["fps"] for r in rows)
            late = (
                100
                * sum(r["late"] for r in rows)
                / max(1, sum(r["frames"] for r in rows))
            )
            cpu = 100 * statistics.median(r["cpu"] for r in rows)
            print(f"{peer:18}{fps:9.1f}{late:8.2f}{cpu:8.1f}")
    own = ", ".join(f"{k} {v / 1024:.1f} MiB" for k, v in result["private_kib"].items())
    print(f"\nmemory of its own: {own} (worker: both halves)")


FILM = (1920, 1080)


def film(quick: bool, repeats: int | None, peers: list[str]) -> dict[str, Any]:
    """Measure and print 1080p30 in two players."""
    words = (8.0, 1) if quick else (20.0, 3)
    found: dict[str, Any] = {}
    for name, play in (("mpv", mpv.play), ("Firefox", None)):
        measure = partial(firefox.measure, size=FILM, play=play)
        played = trio.run(measure, words[0], repeats or words[1], peers)
        firefox.print_table(played, f"{name}, 1080p30")
        found[name] = {k: [asdict(r) for r in v] for k, v in played.items()}
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=result_file)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--core", action="store_true", help="the core alone")
    parser.add_argument(
        "--firefox", action="store_true", help="Firefox's dropped frames, too"
    )
    parser.add_argument(
        "--firefox-alone", action="store_true", help="nothing but those"
    )
    parser.add_argument(
        "--film", action="store_true", help="nothing but 1080p30 in Firefox and mpv"
    )
    parser.add_argument(
        "--flood", action="store_true", help="nothing but a window beside a flood"
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        help="Firefox through this one only, and others so named",
    )
    parser.add_argument("--repeats", type=int, help="repetitions of Firefox")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.flood:
        beside = trio.run(flood.measure, *((2.0, 1) if options.quick else (5.0, 3)))
        flood.print_table(beside)
        found["flood"] = {k: [asdict(r) for r in v] for k, v in beside.items()}
    alone = options.firefox_alone or options.flood or options.film
    if not alone:
        found["core"] = core()
        print_core(found["core"])
    if not options.core and not alone:
        words = (1.0, 300, 1) if options.quick else (4.0, 1000, 3)
        found["live"] = trio.run(live, *words)
        print_live(found["live"])
    if options.firefox or options.firefox_alone:
        words = (8.0, 1) if options.quick else (20.0, 3)
        seconds, repeats = words[0], options.repeats or words[1]
        played = trio.run(firefox.measure, seconds, repeats, options.peer)
        firefox.print_table(played)
        found["firefox"] = {k: [asdict(r) for r in v] for k, v in played.items()}
    if options.film:
        found["film"] = film(options.quick, options.repeats, options.peer)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
