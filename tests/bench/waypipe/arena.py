"""What windows cost by an arena, beside waypipe's server, and beside no end at all.

    python -m tests.bench.waypipe.arena [--seconds N] [--repeats N]

One program draws, and both ends run on this machine, without a machine between them:
what vsock and an emulated processor add is not in these figures.  *Host* is the process
with our end of the wire and the filter, *guest* the end in front of the program; both
are CPU time as a share of a core.  In turns; medians.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.compositor_connection import connect_compositor
from broker.helpers.process.spawn import spawn
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker import readiness
from broker.jail.worker.wayland.waypipe_connection import StreamConnection
from broker.jail.worker.wayland.waypipe_memory import ArenaFile, StreamMachine
from tests.bench.wayland.peers import cpu_of
from tests.kit.accept_loop import serve
from tests.kit.eventually import eventually
from tests.kit.wayland.client import Window, memfd
from tests.kit.wayland.compositor import desktop, short_directory
from tests.kit.wayland.service import WaylandService, serve_client
from tests.kit.waypipe.guest_end import arena, guest_end
from tests.kit.waypipe.stand import server_of

ROOT = Path(__file__).resolve().parents[3]
LOADS = {
    "scroll": (2500, 1400, 60.0),
    "4K": (3840, 2160, 60.0),
    "video": (1280, 720, 30.0),
    "blink": (1280, 800, 60.0),
}
"""Width, height and frames a second; all is new in each, but of ``blink`` 10 x 20."""
WAYS = ("direct", "waypipe", "arena")


def draw(display: str, load: str, seconds: float) -> None:
    """The program: prints its frames, the seconds, and p50 of commit to answer, us."""
    width, height, rate = LOADS[load]
    size = width * height * 4
    shades = [os.urandom(4096) * (size // 4096 + 1) for _ in range(4)]
    with Window(display).start() as client:
        surface, _, _ = client.show(64, 64, 0xFF00FF00)
        fds, buffers, took = [memfd(size) for _ in range(2)], [], []
        for fd in fds:
            pool = client.make(
                client.shm, "create_pool", "wl_shm_pool", None, size, fds=[fd]
            )
            shape = (0, width, height, width * 4, 0)
            buffers.append(
                client.make(pool, "create_buffer", "wl_buffer", None, *shape)
            )
        frames, start = 0, time.monotonic()
        box = (0, 0, 10, 20) if load == "blink" else (0, 0, width, height)
        due = start
        while time.monotonic() - start < seconds:
            if load != "blink" or frames < 2:
                os.pwrite(fds[frames % 2], shades[frames % 4][:size], 0)
            client.send(surface, "attach", buffers[frames % 2], 0, 0)
            client.send(surface, "damage", *box)
            callback = client.make(surface, "frame", "wl_callback")
            began = time.perf_counter()
            client.send(surface, "commit")
            client.roundtrip()
            took.append((time.perf_counter() - began) * 1e6)
            client.wait(lambda e, mine=callback: e[0] == mine and e[2] == "done")
            client.events.clear()
            frames += 1
            due = max(due + 1 / rate, time.monotonic() - 1 / rate)
            time.sleep(max(0.0, due - time.monotonic()))
        print(frames, time.monotonic() - start, statistics.median(took))


async def host(path: str, fd: int, display: str) -> None:
    """The worker's part, in a separate process."""
    readiness.prepare()
    rules, machine = WindowRules("bench", color=0xE01010), StreamMachine()

    def make(*args: object, **options: object) -> StreamConnection:
        if fd >= 0:
            options["arena"] = ArenaFile(os.dup(fd))
        return StreamConnection(*args, **options)  # type: ignore[arg-type]

    service = WaylandService(
        rules,
        Sandbox(rules.name),
        machine,
        partial(connect_compositor, Path(display)),
        lambda _: None,
        make=make,
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        await serve(listener, partial(serve_client, service=service))


@asynccontextmanager
async def ends(way: str, comp, base: Path) -> AsyncIterator[tuple[Path, int]]:
    """The display for the program, and the process of the host; 0: there is none."""
    if way == "direct":
        yield comp.display, 0
        return
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(arena(128 << 20)) if way == "arena" else -1
        words = [sys.executable, "-m", __spec__.name, "host", str(base / "s"), str(fd)]
        child = spawn(
            [*words, str(comp.display)],
            env={**comp.environment, "PYTHONPATH": str(ROOT)},
            pass_fds=() if fd < 0 else (fd,),
        )
        try:
            await eventually((base / "s").is_socket)
            way_in = (
                server_of("", base / "s")
                if way == "waypipe"
                else guest_end(base / "s", fd)
            )
            async with way_in as display:
                yield display, child.pid
        finally:
            with trio.CancelScope(shield=True):
                await child.stop()


def guest_of(base: Path, host_pid: int) -> int:
    """The process of the guest's end, above all others of it; 0: there is none."""
    for pid in map(int, children_of(os.getpid())):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if pid != host_pid and str(base / "s").encode() in words:
            return pid
    return 0


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def spent(pid: int) -> float:
    return cpu_of(pid) if pid else 0.0


async def measured(way: str, load: str, comp, seconds: float) -> dict[str, float]:
    with short_directory() as base:
        async with ends(way, comp, base) as (display, host_pid):
            words = [sys.executable, "-m", __spec__.name, "draw", str(display), load]
            read, write = os.pipe2(os.O_CLOEXEC)
            app = spawn(
                [*words, str(seconds)],
                env={**comp.environment, "PYTHONPATH": str(ROOT)},
                stdout=write,
            )
            os.close(write)
            guest = guest_of(base, host_pid)
            before = spent(host_pid), spent(guest)
            with os.fdopen(read) as said:
                text = await trio.to_thread.run_sync(said.read)
            await app.wait()
            frames, took, p50 = map(float, text.split())
            of_host, of_guest = spent(host_pid) - before[0], spent(guest) - before[1]
            return {
                "frames": frames / took,
                "host": of_host / took,
                "guest": of_guest / took,
                "ms": 1000 * (of_host + of_guest) / frames,
                "p50": p50,
            }


async def live(seconds: float, repeats: int, loads: list[str]) -> None:
    async with desktop(size=(3840, 2160)) as comp:
        print("| load | way | frames/s | host, % of a core | guest, % of a core "
              "| both, ms a frame | commit to answer, ms |")  # fmt: skip
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
        for load in loads:
            found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(repeats):
                for way in WAYS:
                    found[way].append(await measured(way, load, comp, seconds))
            for way, rows in found.items():
                of = {k: statistics.median(r[k] for r in rows) for k in rows[0]}
                print(
                    f"| {load} | {way} | {of['frames']:.1f} | {100 * of['host']:.1f} "
                    f"| {100 * of['guest']:.1f} | {of['ms']:.2f} "
                    f"| {of['p50'] / 1000:.1f} |",
                    flush=True,
                )


def main() -> None:
    if sys.argv[1:2] == ["draw"]:
        draw(sys.argv[2], sys.argv[3], float(sys.argv[4]))
        return
    if sys.argv[1:2] == ["host"]:
        trio.run(host, sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loads", default=",".join(LOADS))
    options = parser.parse_args()
    load, cores = os.getloadavg()[0], os.cpu_count()
    print(f"{cores} cores, load {load:.1f} before the run; no machine between the ends")
    trio.run(live, options.seconds, options.repeats, options.loads.split(","))


if __name__ == "__main__":
    main()
