"""Time from a command to its window: boxes and containers, with and without us.

    python -m tests.bench.launch.boxes [RUNS] [--shared]
    python -m tests.bench.launch.boxes [RUNS] --first

The broker runs already.  In turn, so that a busy moment falls on all: foot alone,
``brokerctl run --bwrap``, ``podman run`` with the compositor's own socket mounted,
``podman run`` with the hook, and ``brokerctl run`` of a record; with ``--shared`` also
``toolbox run`` and ``distrobox-enter``, each with the compositor's own socket and by
our command.  Prints least and
median in milliseconds, the raw values, the least processor time of the command and
what it started (not the broker's), and ratios to the peer that does the same without
Vitrail.  ``--first``: only the first window of a broker that has just started, each
time another one.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from broker.host.launchers.podman.hooks import PROGRAM, write_hooks
from tests.kit.own_command import Distrobox, Toolbox
from tests.kit.podman import podman_settings, root_directory, shared_words
from tests.kit.wayland.compositor import windows
from tests.kit.world import World, world

RECORD = """\
class = "disposable"
display = "allow"
[launch]
kind = "{kind}"
{launch}
"""
_LOOK_SECONDS = 0.01


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def window_after(
    w: World,
    words: Sequence[str],
    title: str,
    shown: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Seconds until a command's window is on the screen, and of the processor.

    ``shown`` is called then, and the command is ended.
    """
    used = _processor_seconds()
    began = time.perf_counter()
    said = output_of(w)
    with said.open("wb") as output:
        child = subprocess.Popen(
            [*words, "foot", "-T", title, "sleep", "1000"],
            env=w.environ,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        with trio.fail_after(120):
            while not await _shown(w, title):
                if child.poll() is not None:
                    raise RuntimeError(said.read_text(errors="replace"))
                await trio.sleep(_LOOK_SECONDS)
        took = time.perf_counter() - began
        shown()
        await w.comp.command(f'[title="{title}$"] kill')
        with trio.fail_after(60):
            while await _shown(w, title):
                await trio.sleep(_LOOK_SECONDS)
        with trio.move_on_after(60) as patience:
            # Asked again and again: a thread that waits cannot be called back.
            while child.poll() is None:
                await trio.sleep(_LOOK_SECONDS)
        if patience.cancelled_caught:
            text = said.read_text(errors="replace")
            raise RuntimeError(f"{words} continues without its window: {text}")
    finally:
        child.kill()
        child.wait()
    return took, _processor_seconds() - used


def output_of(w: World) -> Path:
    """Return the file with what the last command wrote."""
    return w.base / "output"


async def _shown(w: World, title: str) -> bool:
    names = [node.get("name") or "" for node in windows(await w.comp.tree())]
    return any(name.endswith(title) for name in names)


def commands(w: World) -> dict[str, list[str]]:
    """Each way to start, without its program."""
    hooks = w.base / "hooks"
    write_hooks(hooks, hooks / PROGRAM, w.paths.control, ())
    brokerctl = [sys.executable, "-m", "broker.cli.app", "run", "-q"]
    root = root_directory(w.base)
    w.write_record("box", RECORD.format(kind="bwrap", launch=""))
    shared = ", ".join(f'"{word[:-3].split(":")[0]}"' for word in shared_words()[1::2])
    launch = f'rootfs = "{root}"\nbind_read_only = [{shared}]'
    w.write_record("pod", RECORD.format(kind="podman", launch=launch))
    run = ["run", "--rm", "--network=none", *shared_words()]
    socket = w.comp.display
    return {
        "foot alone": [],
        "brokerctl run --bwrap": [*brokerctl, "--bwrap", "--"],
        "brokerctl run, bwrap record": [*brokerctl, "box", "--"],
        "podman run, raw socket": [
            *("podman", *run, "--volume", f"{socket}:/tmp/wayland-0"),
            *(
                "--env",
                "WAYLAND_DISPLAY=/tmp/wayland-0",
                "--env",
                "XDG_RUNTIME_DIR=/tmp",
            ),
            *("--rootfs", f"{root}:O"),
        ],
        "podman run, hook": [
            *("podman", "--hooks-dir", str(hooks), *run),
            *("--annotation", "io.vitrail.sandbox=pod"),
            *("--annotation", "io.vitrail.required=true", "--rootfs", f"{root}:O"),
        ],
        "brokerctl run, podman record": [*brokerctl, "pod", "--"],
    }


@asynccontextmanager
async def shared_boxes(w: World) -> AsyncIterator[dict[str, list[str]]]:
    """A toolbox and a distrobox that have run already: each way to start in them."""
    found: dict[str, list[str]] = {}
    async with AsyncExitStack() as stack:
        for kind in (Toolbox, Distrobox):
            way = kind(w, w.base)
            await stack.enter_async_context(way.prepared())
            program, *words = way.typed()
            # The box has the host's root below /run/host.
            raw = ("env", f"WAYLAND_DISPLAY=/run/host{w.comp.display}")
            real = f"/usr/bin/{Path(program).name}"
            found[f"{way.kind}, raw socket"] = [real, *words, *raw]
            found[f"{way.kind}, our command"] = [program, *words]
        yield found


async def first(runs: int) -> None:
    """Measure the first window of fresh brokers, and print."""
    values = []
    for turn in range(runs):
        async with world(image=False) as w:
            w.environ["PYTHONPATH"] = os.getcwd()
            words = [sys.executable, "-m", "broker.cli.app", "run", "-q", "--bwrap"]
            took, _ = await window_after(w, [*words, "--"], f"bench-{turn}")
            values.append(took * 1000)
    raw = " ".join(f"{value:.0f}" for value in values)
    middle = statistics.median(values)
    print(f"first window: least {min(values):.0f}  median {middle:.0f}  ({raw})")


async def main(runs: int, *, shared: bool) -> None:
    """Measure and print."""
    async with (
        podman_settings() as settings,
        world(image=False, extra=settings) as w,
        AsyncExitStack() as stack,
    ):
        w.environ["PYTHONPATH"] = os.getcwd()
        ways = commands(w)
        if shared:
            ways |= await stack.enter_async_context(shared_boxes(w))
        times: dict[str, list[float]] = {name: [] for name in ways}
        work: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(runs + 1):  # the first one warms the caches
            for number, (name, words) in enumerate(ways.items()):
                took, used = await window_after(w, words, f"bench-{turn}-{number}")
                if turn:
                    times[name].append(took * 1000)
                    work[name].append(used * 1000)
    for name, values in times.items():
        raw = " ".join(f"{value:.0f}" for value in values)
        median = statistics.median(values)
        used = min(work[name])
        line = f"{name:30} least {min(values):6.0f}  median {median:6.0f}  ({raw})"
        print(f"{line}  processor {used:.0f}")
    for name, peer in (
        ("brokerctl run --bwrap", "foot alone"),
        ("podman run, hook", "podman run, raw socket"),
        ("brokerctl run, podman record", "podman run, raw socket"),
        ("toolbox, our command", "toolbox, raw socket"),
        ("distrobox, our command", "distrobox, raw socket"),
    ):
        if name not in times:
            continue
        ratio = statistics.median(times[name]) / statistics.median(times[peer])
        print(f"{name} takes {ratio:.1f} times as long as {peer}")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    shared = "--shared" in sys.argv
    measured = first if "--first" in sys.argv else partial(main, shared=shared)
    trio.run(measured, *(numbers or [5]))
