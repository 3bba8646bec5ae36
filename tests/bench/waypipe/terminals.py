"""Memory of eight terminals, and the time from a key to its picture.

    python -m tests.bench.waypipe.terminals [--keys N] [--repeats N] [--json FILE]

In turns in one run: in front of the compositor itself, through waypipe alone (its server
and its client, no filter), through waypipe's server with our end and filter, and through
our own end with an arena.  Both ends run on this machine, without a virtual one between
them.

*Memory*, MiB, while eight windows of foot are shown: of the host's end and of the guest's
their private memory (Pss_Anon), of the host's also the memory of the files that the
compositor maps, and that of the arena.

*Key*: a virtual keyboard presses it, a program draws one cell of its terminal, 10 x 20
pixels, and commits.  To the compositor's frame callback, which it sends when it has drawn
the picture, with the way back; a screen that was still is drawn at once.  All keys of a
way together, in ms.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from broker.helpers.process.spawn import DEVNULL, Child, spawn
from tests.bench.wayland.peers import family
from tests.bench.waypipe.arena import ROOT, ends, guest_of
from tests.kit.eventually import eventually
from tests.kit.result_file import result_file
from tests.kit.wayland.client import Window, memfd
from tests.kit.wayland.compositor import desktop, short_directory, windows
from tests.kit.wayland.input import CODES, Keyboard
from tests.kit.waypipe.stand import SERVER, server_of

WAYS = ("direct", "waypipe alone", "waypipe", "arena")
TERMINALS = 8
WIDTH, HEIGHT, CELL = 800, 600, (10, 20)
_FOOT = (
    *("foot", "-o", "tweak.max-shm-pool-size-mb=0", "-o", "cursor.blink=no"),
    *("sh", "-c", "ls -l /usr/bin | head -60; sleep 1000"),
)
"""Without its pools of 512 MiB, with which waypipe alone loses windows."""
_SETTLE_SECONDS = 3.0
"""For the first pictures, after the windows are there."""
_MIB = 1 << 20


def keys(real: str, display: str, count: int) -> None:
    """The person and the program: prints the time of each key, in ns."""
    with Keyboard(real) as hand, Window(display).start() as client:
        seat = client.bind("wl_seat", 5)
        client.make(seat, "get_keyboard", "wl_keyboard")
        surface, _, _ = client.show(WIDTH, HEIGHT, 0xFF101010)
        client.wait(lambda e: e[1] == "wl_keyboard" and e[2] == "enter")
        size, stride = WIDTH * HEIGHT * 4, WIDTH * 4
        fd = memfd(2 * size)
        pool = client.make(
            client.shm, "create_pool", "wl_shm_pool", None, 2 * size, fds=[fd]
        )
        shape = (WIDTH, HEIGHT, stride, 0)
        buffers = [
            client.make(pool, "create_buffer", "wl_buffer", None, at, *shape)
            for at in (0, size)
        ]
        pixels = mmap.mmap(fd, 2 * size)
        chance = random.Random(1)
        for number in range(count):
            client.events.clear()
            # At any time of a frame.
            time.sleep(chance.uniform(0.03, 0.06))
            began = time.monotonic_ns()
            hand.change(CODES["a"], 1)
            client.wait(lambda e: e[1] == "wl_keyboard" and e[2] == "key")
            _cell(pixels, number, stride)
            client.send(surface, "attach", buffers[number % 2], 0, 0)
            x, y = _place(number)
            client.send(surface, "damage_buffer", x, y, *CELL)
            callback = client.make(surface, "frame", "wl_callback")
            client.send(surface, "commit")
            client.wait(lambda e, mine=callback: e[0] == mine and e[2] == "done")
            print(time.monotonic_ns() - began)
            hand.change(CODES["a"], 0)


def _place(number: int) -> tuple[int, int]:
    columns = WIDTH // CELL[0]
    row = number // columns % (HEIGHT // CELL[1])
    return number % columns * CELL[0], row * CELL[1]


def _cell(pixels: mmap.mmap, number: int, stride: int) -> None:
    """Draw the same cell into both buffers, as their damage says."""
    x, y = _place(number)
    for half in (0, stride * HEIGHT):
        for row in range(y, y + CELL[1]):
            at = half + row * stride + x * 4
            pixels[at : at + CELL[0] * 4] = os.urandom(4) * CELL[0]


@asynccontextmanager
async def way_in(way: str, comp, base: Path) -> AsyncIterator[tuple[Path, int]]:
    """As ``ends``, and waypipe alone."""
    if way != "waypipe alone":
        async with ends(way, comp, base) as both:
            yield both
        return
    client = spawn(
        [*SERVER, "--socket", str(base / "s"), "client"],
        env={**comp.environment, "WAYLAND_DISPLAY": str(comp.display)},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        await eventually((base / "s").is_socket)
        async with server_of("", base / "s") as display:
            yield display, client.pid
    finally:
        with trio.CancelScope(shield=True):
            await client.stop()


def _anonymous(pid: int) -> int:
    """Bytes of a process and its descendants that are theirs alone."""
    found = 0
    for one in family(pid) if pid else ():
        rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
        found += int(rollup.partition("\nPss_Anon:")[2].split()[0]) << 10
    return found


def _files(pid: int) -> tuple[int, int]:
    """Bytes of a process's memory files, and of its arena."""
    found: dict[int, int] = {}
    arena = 0
    for one in family(pid) if pid else ():
        for entry in Path(f"/proc/{one}/fd").iterdir():
            name = os.readlink(entry)
            if not name.startswith(("/memfd:", "/dev/shm/")):
                continue
            status = os.stat(entry)
            if name.startswith("/memfd:vitrail-arena"):
                arena = status.st_blocks * 512
            else:
                found[status.st_ino] = status.st_blocks * 512
    return sum(found.values()), arena


async def memory(way: str, comp) -> dict[str, float]:
    """What eight terminals take, MiB."""
    children: list[Child] = []
    with short_directory() as base:
        async with way_in(way, comp, base) as (display, host):
            guest = guest_of(base, host)
            try:
                for _ in range(TERMINALS):
                    child = spawn(
                        _FOOT,
                        env={**comp.environment, "WAYLAND_DISPLAY": str(display)},
                        stdout=DEVNULL,
                        stderr=DEVNULL,
                    )
                    children.append(child)

                async def all_shown() -> bool:
                    return len(windows(await comp.tree())) == TERMINALS

                await eventually(all_shown, deadline=120)
                await trio.sleep(_SETTLE_SECONDS)
                files, arena = _files(host)
                found = {
                    "host": _anonymous(host),
                    "files": files,
                    "guest": _anonymous(guest),
                    "arena": arena,
                }
            finally:
                with trio.CancelScope(shield=True):
                    for child in children:
                        await child.stop()
    found["all"] = sum(found.values())
    return {name: size / _MIB for name, size in found.items()}


async def latency(way: str, comp, count: int) -> list[float]:
    """Of each key, ms to its picture."""
    with short_directory() as base:
        async with way_in(way, comp, base) as (display, _host):
            words = [str(comp.display), str(display), str(count)]
            read, write = os.pipe2(os.O_CLOEXEC)
            app = spawn(
                [sys.executable, "-m", __spec__.name, "keys", *words],
                env={**comp.environment, "PYTHONPATH": str(ROOT)},
                stdout=write,
            )
            os.close(write)
            with os.fdopen(read) as said:
                text = await trio.to_thread.run_sync(said.read)
            await app.wait()
    return [int(line) / 1e6 for line in text.splitlines()]


async def measure(count: int, repeats: int) -> dict[str, dict]:
    """Everything, in turns."""
    sizes: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS[1:]}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    config = "default_border none\n"
    async with desktop(size=(2560, 1440), config_extra=config) as comp:
        for _ in range(repeats):
            for way in WAYS:
                times[way] += await latency(way, comp, count)
            for way, rows in sizes.items():
                rows.append(await memory(way, comp))
    return {"memory": sizes, "keys": times}


def print_tables(found: dict[str, dict]) -> None:
    """Medians of the repetitions; quantiles of all keys."""
    print("\n| eight terminals, MiB | host's end | files | guest's end | arena | all |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for way, rows in found["memory"].items():
        of = {name: statistics.median(r[name] for r in rows) for name in rows[0]}
        print(f"| {way} | {' | '.join(f'{size:.1f}' for size in of.values())} |")
    print("\n| a key to its picture, ms | keys | p50 | p95 |")
    print("| --- | ---: | ---: | ---: |")
    for way, values in found["keys"].items():
        cuts = statistics.quantiles(values, n=20)
        print(f"| {way} | {len(values)} | {cuts[9]:.1f} | {cuts[18]:.1f} |")


def main() -> None:
    """Entry point."""
    if sys.argv[1:2] == ["keys"]:
        keys(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=200, help="of each repetition")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=result_file)
    options = parser.parse_args()
    load, cores = os.getloadavg()[0], os.cpu_count()
    print(f"{cores} cores, load {load:.1f} before the run; no machine between the ends")
    found = trio.run(measure, options.keys, options.repeats)
    print_tables(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
