"""Time from a command to its window: micro VMs that boot, are copied, and wait.

    python -m tests.bench.launch.windows [RUNS]

The broker runs already and the records' templates are made.  In turn, so that a busy
moment falls on all: ``brokerctl run`` of foot in a machine that boots, in a copy, in
a machine that waited (its successor is waited for outside the measured time), in a
machine of this machine's own programs, and ``podman run`` of the same program with
the compositor's socket.  Prints least and median in seconds, and the raw values.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

import trio

from broker.launch.microvm.qmp import Json
from tests.bench.launch.boxes import window_after
from tests.kit.eventually import eventually
from tests.kit.podman import podman_settings, root_directory, shared_words
from tests.kit.vm.templates import ready_template
from tests.kit.world import World, record, the_image, world

RECORDS = {
    "boot": record(launch='fork = "no"'),
    "copy": record(),
    "standby": record(launch="standby = 1"),
}
"""The host's programs boot first: their template is made by a run of theirs."""


async def standby_ready(w: World) -> None:
    """Wait until the next machine of the record 'standby' waits."""

    async def ready() -> bool:
        return any("(waits)" in p.role for p in (await w.status()).processes)

    await eventually(ready, deadline=120)


def commands(w: World, host: bool) -> dict[str, list[str]]:
    """Each way to start, without its program."""
    run = [sys.executable, "-m", "broker.cli.app", "run", "-q"]
    ways = {name: [*run, name, "--"] for name in RECORDS}
    if host:
        ways["root host, boot"] = [*run, "--root", "host", "--"]
    root = root_directory(w.base)
    ways["podman run, raw socket"] = [
        *("podman", "run", "--rm", "--network=none", *shared_words()),
        *("--volume", f"{w.comp.display}:/tmp/wayland-0"),
        *("--env", "WAYLAND_DISPLAY=/tmp/wayland-0", "--env", "XDG_RUNTIME_DIR=/tmp"),
        *("--rootfs", f"{root}:O"),
    ]
    return ways


async def main(runs: int, host: bool) -> None:
    """Measure and print."""
    image = await the_image()
    for name in ("copy", "standby"):
        await ready_template(image, name)
    times: dict[str, list[float]] = {}
    hows: dict[str, Json] = {}
    async with podman_settings() as settings, world(RECORDS, extra=settings) as w:
        w.environ["PYTHONPATH"] = os.getcwd()
        await w.window("standby", "first")  # from now on one waits
        for turn in range(runs):
            for number, (name, words) in enumerate(commands(w, host).items()):
                if name == "standby":
                    await standby_ready(w)
                took, _ = await window_after(w, words, f"bench-{turn}-{number}")
                times.setdefault(name, []).append(took)
                if "podman" not in name:
                    hows[name] = w.events("sandbox.machine")[-1]["how"]
                print(f"{turn} {name}: {took:.2f} s", flush=True)
    print(f"on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    for name, values in times.items():
        raw = " ".join(f"{value:.2f}" for value in values)
        median = statistics.median(values)
        how = hows.get(name, "")
        print(
            f"{name:24} {how!s:8} least {min(values):.2f}  median {median:.2f}  ({raw})"
        )


if __name__ == "__main__":
    host_too = "--host" in sys.argv
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    if not Path("tests").is_dir():
        sys.exit("start it in the checkout")
    trio.run(main, *(numbers or [5]), host_too)
