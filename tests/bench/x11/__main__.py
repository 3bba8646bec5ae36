"""``python -m tests.bench.x11 [--repeats N] [--json FILE]``: the bridge and other Xwaylands.

``rootful`` and ``bridge`` show on the same filtered sway; ``rootless`` is that sway's own
Xwayland, without a filter and with sway as its window manager: what Xwayland's rootless
mode costs.  In each repetition, the peers in turn:

* x11perf: rates of rectangles, text, scrolling and pictures;
* a film of 1280x720 with 30 pictures a second, for ten seconds (mpv): processor time of
  the bridge (none in a rootful Xwayland) and of the X server, in hundredths of a core.

A table of medians, with the least and the most of the repetitions, is printed only if
every peer took part in every repetition.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from shims.bundle import x11_bridge
from tests.kit.eventually import eventually
from tests.kit.result_file import result_file
from tests.kit.wayland.compositor import desktop, short_directory
from tests.kit.wayland.stand import CONFIG, filtered

PEERS = ("rootful", "rootless", "bridge")
DRAWN = {
    "rectangle 500x500": "-rect500",
    "text 6x13": "-ftext",
    "scroll 500x500": "-scroll500",
    "PutImage 500x500": "-putimage500",
}
FILM_SECONDS = 10
_FILM = "av://lavfi:testsrc=size=1280x720:rate=30"
_RATE = re.compile(r"\(\s*([\d.]+)/sec\)")
Shown = tuple[dict[str, str], Callable[[], dict[str, int]]]
"""Variables of its programs, and its processes by name, asked when they run."""
_TICK = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    """Of a process that runs: user and system time (proc(5))."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(words[11]) + int(words[12])) / _TICK


def children(pid: int) -> dict[str, int]:
    """Return pids of a process's children, and of theirs, by program."""
    found: dict[str, int] = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found[Path(f"/proc/{child}/comm").read_text().strip()] = int(child)
        found |= children(int(child))
    return found


def _words(pid: int) -> list[str]:
    """Return a process's command line, which is empty while the process begins."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")


@contextmanager
def server(peer: str, display: Path, sway: int) -> Iterator[Shown]:
    """What shows X11 windows on this display; ``sway`` is the compositor's pid."""
    if peer == "rootless":
        pid = children(sway)["Xwayland"]
        yield {"DISPLAY": _words(pid)[1]}, lambda: {"Xwayland": pid}
        return
    with short_directory() as base:
        runtime = {"WAYLAND_DISPLAY": str(display), "XDG_RUNTIME_DIR": str(base)}
        if peer == "rootful":
            argv = ["Xwayland", "-noreset", "-shm", "-displayfd", "1"]
        else:
            (base / "bridge.py").write_bytes(x11_bridge())
            shell = "echo ${DISPLAY#:} $XAUTHORITY; exec sleep 3600"
            argv = [sys.executable, str(base / "bridge.py"), "--", "sh", "-c", shell]
        with subprocess.Popen(
            argv,
            env={**os.environ, **runtime},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as started:
            assert started.stdout is not None
            number, _, cookie = started.stdout.readline().strip().partition(" ")
            root = started.pid

            def pids() -> dict[str, int]:
                if peer == "rootful":
                    return {"Xwayland": root}
                return {"bridge": root, "Xwayland": children(root)["Xwayland"]}

            try:
                yield {"DISPLAY": f":{number}", "XAUTHORITY": cookie}, pids
            finally:
                started.terminate()


def drawn(env: dict[str, str]) -> dict[str, float]:
    """Return x11perf's rates, in operations a second."""
    rates = {}
    for what, option in DRAWN.items():
        words = ["x11perf", "-time", "1", "-repeat", "2", option]
        done = subprocess.run(
            words, env=env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed: {done.stderr.strip()}")
        rates[what] = float(_RATE.findall(done.stdout)[-1])
    return rates


def film(env: dict[str, str], pids: Callable[[], dict[str, int]]) -> dict[str, float]:
    """Return hundredths of a core that each program took while a film ran."""
    words = ["mpv", "--no-config", "--vo=x11", "--ao=null", "--loop", _FILM]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, env=env, stdout=quiet, stderr=quiet) as player:
        time.sleep(3)  # the film begins
        known = pids()
        before = {name: processor_seconds(pid) for name, pid in known.items()}
        time.sleep(FILM_SECONDS)
        spent = {name: processor_seconds(known[name]) - before[name] for name in known}
        player.kill()  # mpv loses a SIGTERM that comes while it loads
    return {
        f"film, {name} (% of a core)": round(100 * seconds / FILM_SECONDS, 2)
        for name, seconds in spent.items()
    }


def measure(peer: str, display: Path, sway: int) -> dict[str, float]:
    """Measure one peer, from its start to its end."""
    with server(peer, display, sway) as (names, pids):
        env = {**os.environ, **names}
        env.pop("WAYLAND_DISPLAY", None)
        return {**drawn(env), **film(env, pids)}


async def main(repeats: int) -> dict[str, dict[str, list[float]]]:
    """Measure all peers, interleaved; returns raw values by figure and peer."""
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(repeats):
        for peer in PEERS:
            config = f"{CONFIG}xwayland force\n" if peer == "rootless" else CONFIG
            async with desktop(config_extra=config) as comp, filtered(comp) as it:
                sway = comp.child.pid

                async def ready(sway: int = sway, peer: str = peer) -> bool:
                    if peer != "rootless":
                        return True
                    pid = children(sway).get("Xwayland")
                    return pid is not None and len(_words(pid)) > 1

                await eventually(ready)
                values = await trio.to_thread.run_sync(measure, peer, it.path, sway)
                assert it.ends == [], it.ends
            for what, value in values.items():
                found.setdefault(what, {}).setdefault(peer, []).append(value)
    return found


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    low, middle, high = min(values), statistics.median(values), max(values)
    digits = 0 if middle >= 100 else 1
    return f"{middle:,.{digits}f} [{low:,.{digits}f}..{high:,.{digits}f}]"


def show(found: dict[str, dict[str, list[float]]]) -> None:
    """Print medians, and the least and the most of the repetitions."""
    print(f"{'':30}" + "".join(f"{peer:>34}" for peer in PEERS))
    for what, peers in found.items():
        cells = [_cell(peers.get(peer, [])) for peer in PEERS]
        print(f"{what:30}" + "".join(f"{cell:>34}" for cell in cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.x11")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=result_file)
    options = parser.parse_args()
    values = trio.run(main, options.repeats)
    show(values)
    if options.json is not None:
        options.json.write_text(json.dumps(values, indent=1))
