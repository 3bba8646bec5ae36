"""Time from a command to its window: micro VMs that boot, are copied, and wait.

    python -m tests.bench.launch.windows [--host] [--busy] [--json] [--only WAY] [RUNS]

The broker runs already and the records' parents are made.  In turn, so that a busy
moment falls on all: ``brokerctl run`` of foot in a machine that boots, in a copy, in
one that shares its parent's memory, in a machine that waited (its successor is waited for outside the measured time), with
``--host`` in a machine of this machine's own programs, which are copied into an
image before that; and ``podman run`` of the same program with the compositor's
socket.  Each start waits for a quiet moment, without ``--busy``.  Prints least and
median in seconds, and the raw values; the steps of each start, and the processor time
until its window.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import trio

from broker.host.vmm.qmp import Json
from tests.bench.launch.boxes import output_of, window_after
from tests.bench.memory.idle import thread_seconds
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import NeverError, eventually
from tests.kit.podman import podman_settings, root_directory, shared_words
from tests.kit.vm.parents import Mode, ready_parent
from tests.kit.world import World, record, the_image, world

BOOT = 'fork = "no"'
RECORDS = {
    "boot": record(launch=BOOT),
    "copy": record(),
    "standby": record(launch="standby = 1"),
    "shared": record(launch='fork = "shared"'),
}
PARENTS: Mapping[str, Mode] = {"copy": "copy", "standby": "copy", "shared": "shared"}
HOST = {"host": record(launch=f'root = "host"\n{BOOT}')}
PODMAN = "podman run, raw socket"
QUIET_SHARE = 0.15
"""Processors that others may use in the second before a measurement."""
QUIET_SECONDS = 40
IMAGE_SECONDS = 500
"""To copy this machine's programs into an image, once."""


class Used:
    """Processor time of the broker, its processes and the compositor until ``end``.

    Unlike the time on the clock, it hardly depends on what else the machine does.
    Processes that have ended by then are left out: short ones.
    """

    def __init__(self, w: World) -> None:
        self._world = w
        self._before = self._now()
        self.seconds = 0.0

    def _now(self) -> dict[int, float]:
        found = {}
        for pid in self._world.processes():
            with suppress(OSError):
                found[pid] = sum(thread_seconds(pid).values())
        return found

    def end(self) -> None:
        """Take the time until now."""
        now = self._now()
        self.seconds = sum(now[pid] - self._before.get(pid, 0.0) for pid in now)


def busy_seconds() -> float:
    """Return the seconds that all processors have worked since the machine's boot."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


async def wait_quiet(seconds: float) -> None:
    """Wait until the machine does little else, at most so long."""
    with trio.move_on_after(seconds):
        while True:
            before = busy_seconds()
            await trio.sleep(1)
            if busy_seconds() - before <= QUIET_SHARE:
                return


async def standby_ready(w: World) -> None:
    """Wait until the next machine of the record 'standby' waits.

    Raises RuntimeError with the broker's warnings when none comes: none is begun
    while memory is short, for example.
    """

    async def ready() -> bool:
        return any("(waits)" in p.role for p in (await w.status()).processes)

    try:
        await eventually(ready, deadline=120)
    except NeverError:
        why = (await w.status()).warnings
        raise RuntimeError(f"no machine waits: {why}") from None


def commands(w: World, records: Iterable[str]) -> dict[str, list[str]]:
    """Each way to start, without its program."""
    run = [sys.executable, "-m", "broker.cli.app", "run"]
    ways = {name: [*run, name, "--"] for name in records}
    ways[PODMAN] = [
        *("podman", "run", "--rm", "--network=none", *shared_words()),
        *("--volume", f"{w.comp.display}:/tmp/wayland-0"),
        *("--env", "WAYLAND_DISPLAY=/tmp/wayland-0", "--env", "XDG_RUNTIME_DIR=/tmp"),
        *("--rootfs", f"{root_directory(w.base)}:O"),
    ]
    return ways


async def prepare(w: World, records: Iterable[str]) -> None:
    """Have what a first start makes: images, a machine that waits."""
    await w.window("standby", "first")
    if "host" in records:
        words = ("run", "--detach", "host", "--", "foot", "sleep", "1000")
        done = await brokerctl(*words, env=w.environ, deadline=IMAGE_SECONDS)
        if done.code:
            raise RuntimeError(done.err)
    await w.stop()


async def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    image = await the_image()
    records = {**RECORDS, **(HOST if options.host else {})}
    for name, mode in PARENTS.items():
        await ready_parent(image, name, mode=mode)
    times: dict[str, list[float]] = {}
    work: dict[str, list[float]] = {}
    hows: dict[str, Json] = {}
    async with podman_settings() as settings, world(records, extra=settings) as w:
        w.environ["PYTHONPATH"] = os.getcwd()
        await prepare(w, records)
        ways = commands(w, records)
        for turn in range(options.runs):
            for number, name in enumerate(options.only or ways):
                if name == "standby":
                    await standby_ready(w)
                await wait_quiet(0 if options.busy else QUIET_SECONDS)
                used = Used(w)
                title = f"bench-{turn}-{number}"
                took, _ = await window_after(w, ways[name], title, used.end)
                times.setdefault(name, []).append(took)
                work.setdefault(name, []).append(used.seconds)
                if name != PODMAN:
                    hows[name] = w.events("sandbox.machine")[-1]["how"]
                numbers = f"{took:.2f} s, processor {used.seconds:.2f} s"
                load = f"load {os.getloadavg()[0]:.1f}"
                print(f"{turn} {name}: {numbers}, {load}{steps(w)}", flush=True)
    show(times, hows)
    for name, values in work.items():
        print(f"{name:24} processor: least {min(values):.2f} s")
    if options.json:
        print(json.dumps({"seconds": times, "processor": work, "how": hows}))


def steps(w: World) -> str:
    """Return the steps of the last ``brokerctl run``, each with its time."""
    lines = output_of(w).read_text(errors="replace").splitlines()
    return "".join(f";{line.strip(' ✓')}" for line in lines if "✓" in line)


def show(times: Mapping[str, list[float]], hows: Mapping[str, Json]) -> None:
    """Print the table."""
    print(f"on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    for name, values in times.items():
        raw = " ".join(f"{value:.2f}" for value in values)
        middle = statistics.median(values)
        how = hows.get(name, "")
        print(
            f"{name:24} {how!s:8} least {min(values):.2f}  median {middle:.2f}  ({raw})"
        )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.launch.windows")
    parser.add_argument("runs", metavar="RUNS", nargs="?", type=int, default=5)
    parser.add_argument("--only", metavar="WAY", action="append")
    for word in ("host", "busy", "json"):
        parser.add_argument(f"--{word}", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    if not Path("tests").is_dir():
        sys.exit("start it in the checkout")
    trio.run(main, arguments())
