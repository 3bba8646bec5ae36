"""Processor time of an animation and of sound in a container, with and without us.

    python -m tests.bench.launch.carried [SECONDS]

foot with sixty lines a second, so that all of it moves, and pacat (48 kHz stereo, 20 ms) in a
container of ``podman run``: with the desktop's own sockets mounted, and with the hook.
Prints milliseconds of processor time a second of the program, of Vitrail's processes,
and of the compositor or the sound server.  A table is printed only if every row is there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trio

from broker.host.launchers.podman.hooks import PROGRAM, write_hooks
from tests.bench.wayland.peers import cpu_of
from tests.kit.eventually import eventually
from tests.kit.podman import podman_settings, root_directory, shared_words
from tests.kit.podman_store import run as podman
from tests.kit.sound.servers import Server, needs, sound_server
from tests.kit.world import World, world

RECORD = """\
class = "persistent"
display = "allow"
[audio]
playback = "allow"
[launch]
kind = "podman"
required = true
"""
_LINES = """
import time
while True:
    print(time.time(), flush=True)
    time.sleep(1 / 60)
"""
PROGRAMS = {
    "animation": ("foot", "python3", "-c", _LINES),
    "sound": (
        *("pacat", "--raw", "--rate=48000", "--channels=2", "--format=s16le"),
        *("--latency-msec=20", "/dev/zero"),
    ),
}
_SERVERS = {
    "animation": ("sway",),
    "sound": ("pipewire", "pipewire-pulse", "wireplumber"),
}
_SETTLE_SECONDS = 2


def servers_in(place: str, names: tuple[str, ...]) -> list[int]:
    """Processes of these names with this directory in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name = (entry / "comm").read_text().strip()
            if name in names and place.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended, or is another user's
    return found


def ways(w: World, server: Server) -> dict[str, list[str]]:
    """Podman's words for each way, without the program."""
    hooks = w.base / "hooks"
    write_hooks(hooks, hooks / PROGRAM, w.paths.control, ())
    w.write_record("bench", RECORD)
    root = root_directory(w.base)
    run = ["run", "--rm", "--name=bench", "--network=none", *shared_words()]
    rootfs = ("--rootfs", f"{root}:O")
    mounts = {w.comp.display: "/tmp/wayland-0", server.socket: "/tmp/pulse"}
    values = {
        "WAYLAND_DISPLAY": "/tmp/wayland-0",
        "PULSE_SERVER": "unix:/tmp/pulse",
        "XDG_RUNTIME_DIR": "/tmp",
    }
    raw = [word for a, b in mounts.items() for word in ("--volume", f"{a}:{b}")]
    raw += [word for a, b in values.items() for word in ("--env", f"{a}={b}")]
    annotation = ("--annotation", "io.vitrail.sandbox=bench")
    return {
        "raw sockets": [*run, *raw, *rootfs],
        "hook": ["--hooks-dir", str(hooks), *run, *annotation, *rootfs],
    }


async def measured(
    w: World, server: Server, words: list[str], load: str, seconds: float
) -> tuple[float, float, float]:
    """Milliseconds a second of the program, of Vitrail, and of the desktop's server."""
    program = PROGRAMS[load]
    child = subprocess.Popen(
        ["podman", *words, *program],
        env=w.environ,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    places = {"animation": w.comp.environment["XDG_RUNTIME_DIR"]}
    place = places.get(load, str(server.directory))
    try:

        def started() -> int:
            shown = ("inspect", "--format", "{{.State.Pid}}", "bench")
            return int(podman(w.environ, *shown, check=False) or 0)

        client = await eventually(started)
        servers = servers_in(place, _SERVERS[load])
        assert servers, f"no {_SERVERS[load]} in {place}"
        broker = await w.broker_pid()
        await trio.sleep(_SETTLE_SECONDS)

        def used() -> list[float]:
            return [cpu_of(client), cpu_of(broker), sum(map(cpu_of, servers))]

        before, began = used(), trio.current_time()
        await trio.sleep(seconds)
        took = trio.current_time() - began
        after = used()
        assert child.poll() is None, "it ended too early"
    finally:
        podman(w.environ, "rm", "-f", "-t", "0", "bench", check=False)
        child.wait()
    return tuple((b - a) / took * 1000 for a, b in zip(before, after, strict=True))


async def main(seconds: float) -> None:
    """Measure and print."""
    needs("pipewire")
    rows = []
    async with (
        podman_settings() as settings,
        sound_server("pipewire") as server,
        world(image=False, start=False, extra=settings) as w,
    ):
        w.environ["PULSE_SERVER"] = f"unix:{server.socket}"
        await w.start()
        found_ways = ways(w, server)
        for load in PROGRAMS:
            for name, words in found_ways.items():
                found = await measured(w, server, words, load, seconds)
                rows.append((load, name, *found))
    print(
        "| load | way | program | Vitrail | desktop |\n| --- | --- | --- | --- | --- |"
    )
    for load, name, *numbers in rows:
        shown = " | ".join(f"{number:.1f}" for number in numbers)
        print(f"| {load} | {name} | {shown} |")


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]) if sys.argv[1:] else 10.0)
