"""Memory and processor time of machines that boot and of copies.

    python -m tests.bench.memory [--json] [COUNT…]

For each way (boot, copy) and each COUNT (1 4 8): that many idle machines of a running
broker; the memory of their QEMUs and vsock backends (Pss of
/proc/PID/smaps_rollup), in all and each.  Of a single one, processor time of QEMU in
``IDLE_SECONDS``, and its memory after a program that used 256 MiB has ended.  At last
the largest COUNT with a window each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import trio

from tests.bench.launch.__main__ import pss
from tests.kit.vm.templates import ready_template
from tests.kit.world import World, record, the_image, world

WAYS = {"boot": record(launch='fork = "no"'), "copy": record()}
SETTLE_SECONDS = 8.0
IDLE_SECONDS = 20.0
_ROLES = ("QEMU", "vhost-device-vsock")
_HOG = "x = bytearray(256 << 20)\nfor at in range(0, len(x), 4096): x[at] = 1"


async def machines(w: World, sandboxes: Iterable[str]) -> list[list[int]]:
    """Return the pids of each sandbox's machine, QEMU first."""
    found = (await w.status()).processes
    return [
        [p.pid for role in _ROLES for p in found if (p.role, p.sandbox) == (role, name)]
        for name in sandboxes
    ]


def processor_seconds(pid: int) -> float:
    """Return the time that a process has run, its ended threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def sizes(w: World, sandboxes: Iterable[str]) -> list[float]:
    """Return each machine's MiB, when it has settled."""
    await trio.sleep(SETTLE_SECONDS)
    found = await machines(w, sandboxes)
    return [sum(pss(pid) for pid in pids) for pids in found]


async def idle(w: World, way: str) -> str:
    """Start an idle machine; returns its name."""
    last, _ = await w.run(way, "sleep", "100000", window=False)
    assert last.started is not None
    return str(last.started.sandbox)


async def one_machine(w: World, way: str) -> dict[str, float]:
    """Measure a single idle machine, and one whose program gave its memory back."""
    sandbox = await idle(w, way)
    (before,) = await sizes(w, [sandbox])
    ((qemu, *_),) = await machines(w, [sandbox])
    spent, began = processor_seconds(qemu), time.monotonic()
    await trio.sleep(IDLE_SECONDS)
    share = (processor_seconds(qemu) - spent) / (time.monotonic() - began)
    code, said = await w.output(sandbox, "python3", "-c", _HOG)
    if code != 0:
        raise RuntimeError(f"the program failed: {said!r}")
    (after,) = await sizes(w, [sandbox])
    await w.stop(sandbox)
    return {"idle": before, "after 256 MiB": after, "processor %": share * 100}


async def many(w: World, way: str, count: int, windows: bool) -> list[float]:
    """Return the MiB of each of ``count`` machines at once."""
    names = []
    for number in range(count):
        if windows:
            names.append(await w.window(way, f"{way}-{number}"))
        else:
            names.append(await idle(w, way))
    found = await sizes(w, names)
    await w.stop()
    return found


def show(way: str, what: str, found: list[float]) -> None:
    """Print one line of the table."""
    each = " ".join(f"{size:.0f}" for size in found)
    print(f"{way} {len(found)} {what}: {sum(found):.0f} MiB ({each})", flush=True)


async def main(counts: list[int], as_json: bool) -> None:
    """Measure and print."""
    await ready_template(await the_image(), "copy")
    result: dict[str, object] = {}
    async with world(WAYS) as w:
        for way in WAYS:
            single = await one_machine(w, way)
            result[way] = single
            print(way, {k: round(v, 2) for k, v in single.items()}, flush=True)
            for count in counts:
                found = await many(w, way, count, windows=False)
                show(way, "idle", found)
                result[f"{way} {count} idle"] = found
            found = await many(w, way, counts[-1], windows=True)
            show(way, "with a window", found)
            result[f"{way} {counts[-1]} windows"] = found
        hows = {e["how"] for e in w.events("sandbox.machine")}
        print(f"machines came up by {sorted(hows)}")
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    trio.run(main, numbers or [1, 4, 8], "--json" in sys.argv)
