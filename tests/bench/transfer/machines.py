"""What a copy and a click cost between real micro VMs, over their vsock.

    python -m tests.bench.transfer.machines [--quick] [--repeats N] [--no-copy]
        [--no-clicks] [--large BYTES] [--small FILES] [--json FILE]

*Copies* of one large file and of many small ones, from a machine's home to another's, in
turns of which each begins with the other peer; the load of the machine is printed with
each:

* *vitrail*: ``vitrail-copy``, a real broker, its workers, a rule, every check on;
* *tar*: ``tar | socat`` in one machine, ``socat | tar`` in the other, over the same
  vhost-device-vsock; on the host two ``socat`` and a pipe, no checks.

CPU is that of QEMU, vhost-device-vsock, broker, workers and ``socat`` together, so the
guests' own work is in it.

*Clicks*: seconds from the order to start ``xdg-open`` in a machine to the window of the
program that opens the address: in a machine that runs, in a fresh disposable that is
a copy of a booted one, and in one that boots.  Beside it the window alone: the
same program, started in the running machine without any link.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from tests.kit.eventually import eventually
from tests.kit.result_file import result_file
from tests.kit.vm.images import LINKS_IMAGE
from tests.kit.wayland.compositor import wait_window, windows
from tests.kit.world import World, record, the_image, world

RULES = """\
vitrail.FileCopy * work personal allow max-size=8G
vitrail.OpenURL  * work @default allow target=personal host=running.example
vitrail.OpenURL  * work @default allow target=@dispvm:copied host=copied.example
vitrail.OpenURL  * work @default allow target=@dispvm:booted host=booted.example
"""
SHOW = "import os,sys;os.execvp('foot',['foot','-T',sys.argv[1],'sleep','1000'])"
# vhost-device-vsock 0.3 loses parts of what a guest writes in larger pieces.
GUEST_BYTES = 28 << 10
HOST_BYTES = 64 << 10
OUT, IN = 9998, 9999
Runs = dict[str, dict[str, list[tuple[float, float]]]]


def _records() -> dict[str, str]:
    """A sender, a receiver that also shows addresses, and two disposables."""
    show = f'command = ["python3", "-c", "{SHOW}"]'

    def text(sandbox_class: str, launch: str = "") -> str:
        made = record(sandbox_class, launch=f'image = "{LINKS_IMAGE.name}"\n{launch}')
        made = made.replace('command = ["foot"]', show)
        return made + "[transfer]\nrequest_files = 100000\n"

    return {
        "work": text("persistent"),
        "personal": text("persistent"),
        "copied": text("disposable"),
        "booted": text("disposable", 'fork = "no"'),
    }


def _cpu(w: World) -> float:
    """Seconds of the processor that this world's processes have had so far."""
    ticks = 0
    for pid in w.processes():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except OSError:  # it has just ended
            continue
        ticks += int(fields[11]) + int(fields[12])
    mine = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / os.sysconf("SC_CLK_TCK") + mine.ru_utime + mine.ru_stime


async def _done(w: World, name: str, script: str) -> None:
    code, out = await w.output(name, "sh", "-c", script)
    if code:
        raise SystemExit(f"{name}: {script}: code {code}: {out.decode()}")


async def _vitrail(w: World, load: str) -> None:
    await _done(w, "work", f"vitrail-copy ~/{load} personal")


async def _tar(w: World, load: str) -> None:
    doors = {}
    for name, port in (("work", OUT), ("personal", IN)):
        (place,) = (w.paths.runtime / "sandboxes" / name).glob("**/vm.vsock")
        doors[name] = Path(f"{place}_{port}")
        doors[name].unlink(missing_ok=True)
    relay = f"socat -b {HOST_BYTES} -u"
    line = (
        f"{relay} UNIX-LISTEN:{doors['work']} STDOUT |"
        f" {relay} STDIN UNIX-LISTEN:{doors['personal']}"
    )
    child = subprocess.Popen(["sh", "-c", line])

    async def listening() -> bool:
        return all(door.exists() for door in doors.values())

    await eventually(listening)
    guest = f"socat -b {GUEST_BYTES} -u"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            _done,
            w,
            "personal",
            f"mkdir -p ~/Incoming/tar; {guest} VSOCK-CONNECT:2:{IN} STDOUT |"
            " tar -C ~/Incoming/tar -xf -",
        )
        nursery.start_soon(
            _done,
            w,
            "work",
            f"tar -C ~ -cf - {load} | {guest} STDIN VSOCK-CONNECT:2:{OUT}",
        )
    if await trio.to_thread.run_sync(child.wait):
        raise SystemExit("socat failed")


PEERS: dict[str, Callable[[World, str], Awaitable[None]]] = {
    "vitrail": _vitrail,
    "tar": _tar,
}


async def copies(w: World, large: int, small: int, repeats: int) -> Runs:
    """Copy each load by each peer; seconds and CPU seconds of each copy."""
    make = (
        f"mkdir -p ~/large ~/small; head -c {large} /dev/urandom > ~/large/x; cd ~/small;"
        f"python3 -c 'for n in range({small}): open(str(n), \"wb\").write(bytes(4000))'"
    )
    await _done(w, "work", make)
    await _done(w, "personal", "true")
    sums = "cd {} && find . -type f | sort | xargs -n 1000 cksum | cksum"
    raw: Runs = {}
    for turn in range(repeats):
        peers = list(PEERS.items())
        for load in ("large", "small"):
            for peer, copy in peers if turn % 2 == 0 else reversed(peers):
                before, began = _cpu(w), time.monotonic()
                await copy(w, load)
                took = time.monotonic() - began, _cpu(w) - before
                raw.setdefault(load, {}).setdefault(peer, []).append(took)
                print(
                    f"{turn} {load} {peer}: {took[0]:.1f} s, {took[1]:.1f} s CPU,"
                    f" load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
                kept = "work" if peer == "vitrail" else "tar"
                there = sums.format(f"~/Incoming/{kept}/{load}")
                _, mine = await w.output("work", "sh", "-c", sums.format(f"~/{load}"))
                _, copied = await w.output("personal", "sh", "-c", there)
                if mine != copied:
                    raise SystemExit(f"{peer} has not copied {load}")
                await _done(w, "personal", "rm -rf ~/Incoming; sync")
    return raw


async def clicks(w: World, repeats: int) -> dict[str, list[float]]:
    """Seconds from a click to its window, by where it opens."""
    await w.output("work", "true")
    await w.output("personal", "true")
    raw: dict[str, list[float]] = {}
    for turn in range(repeats):
        for way in ("window alone", "running", "copied", "booted"):
            title = f"https://{way}.example/{turn}"
            began = time.monotonic()
            if way == "window alone":
                await w.run("personal", "python3", "-c", SHOW, title)
            else:
                await w.run("work", "xdg-open", title, window=False)
            (window,) = await wait_window(w.comp, title=title, deadline=300)
            took = time.monotonic() - began
            raw.setdefault(way, []).append(took)
            print(f"{turn} {way}: {took:.2f} s", flush=True)
            await w.comp.command(f"[con_id={window['id']}] kill")

            async def gone() -> bool:
                running = {s.name for s in (await w.status()).sandboxes}
                shown = windows(await w.comp.tree())
                return running == {"work", "personal"} and not shown

            await eventually(gone, deadline=120)
    return raw


def _shown(copied: Runs, clicked: dict[str, list[float]]) -> None:
    print(f"on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    for load, peers in copied.items():
        base = statistics.median(took for took, _ in peers["tar"])
        for peer, runs in peers.items():
            took = statistics.median(one for one, _ in runs)
            cpu = statistics.median(one for _, one in runs)
            print(
                f"{load:16}{peer:14}{took:8.2f} s{base / took:7.2f} of tar's rate",
                end="",
            )
            print(f"{cpu:8.2f} s CPU")
    for way, times in clicked.items():
        print(
            f"{'click to window':16}{way:14}{statistics.median(times):8.2f} s", end=""
        )
        print(f"   least {min(times):.2f}")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=result_file)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-copy", action="store_true")
    parser.add_argument("--no-clicks", action="store_true")
    parser.add_argument("--large", type=int)
    parser.add_argument("--small", type=int)
    options = parser.parse_args()
    if shutil.which("socat") is None:
        raise SystemExit("socat is not installed; without every peer there is no table")
    large, small = (128 << 20, 1000) if options.quick else (1 << 30, 10_000)
    large, small = options.large or large, options.small or small
    await the_image()
    await build_image(find_paths(), LINKS_IMAGE, print)
    copied: Runs = {}
    clicked: dict[str, list[float]] = {}
    async with world(_records(), rules=RULES) as w:
        print("the broker is ready", flush=True)
        if not options.no_clicks:
            clicked = await clicks(w, options.repeats)
        if not options.no_copy:
            copied = await copies(w, large, small, options.repeats)
    _shown(copied, clicked)
    if options.json:
        raw = {"copies": copied, "clicks": clicked}
        options.json.write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    trio.run(main)
