"""Memory of machines that boot, of copies, and of those that share their parent's.

    python -m tests.bench.memory [--way boot|copy|shared] [--no-windows] [--json] [COUNT…]

For each way (boot, copy, shared) and each COUNT (1 4 8): that many idle machines of a running
broker; the memory of their QEMUs and vsock backends (Pss of
/proc/PID/smaps_rollup), in all and each.  Of a single one, also its memory after a
program that used 256 MiB has ended.  At last the largest COUNT with a window each.
Processor time: ``tests.bench.memory.idle``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable

import trio

from tests.bench.launch.__main__ import pss
from tests.bench.memory.idle import PARENTS, WAYS, start_idle
from tests.kit.vm.parents import ready_parent
from tests.kit.world import World, the_image, world

SETTLE_SECONDS = 8.0
_ROLES = ("QEMU", "vhost-device-vsock", "port-mux")
_HOG = "x = bytearray(256 << 20)\nfor at in range(0, len(x), 4096): x[at] = 1"


async def machines(w: World, sandboxes: Iterable[str]) -> list[list[int]]:
    """Return the pids of each sandbox's machine, QEMU first."""
    found = (await w.status()).processes
    return [
        [p.pid for role in _ROLES for p in found if (p.role, p.sandbox) == (role, name)]
        for name in sandboxes
    ]


async def sizes(w: World, sandboxes: Iterable[str]) -> list[float]:
    """Return each machine's MiB, when it has settled."""
    await trio.sleep(SETTLE_SECONDS)
    found = await machines(w, sandboxes)
    return [sum(pss(pid) for pid in pids) for pids in found]


async def one_machine(w: World, way: str) -> dict[str, float]:
    """Measure a single idle machine, and one whose program gave its memory back."""
    sandbox = await start_idle(w, way)
    (before,) = await sizes(w, [sandbox])
    code, said = await w.output(sandbox, "python3", "-c", _HOG)
    if code != 0:
        raise RuntimeError(f"the program failed: {said!r}")
    (after,) = await sizes(w, [sandbox])
    await w.stop(sandbox)
    return {"idle": before, "after 256 MiB": after}


async def many(w: World, way: str, count: int, windows: bool) -> list[float]:
    """Return the MiB of each of ``count`` machines at once."""
    names = []
    for number in range(count):
        if windows:
            names.append(await w.window(way, f"{way}-{number}"))
        else:
            names.append(await start_idle(w, way))
    found = await sizes(w, names)
    await w.stop()
    return found


def show(way: str, what: str, found: list[float]) -> None:
    """Print one line of the table."""
    each = " ".join(f"{size:.0f}" for size in found)
    print(f"{way} {len(found)} {what}: {sum(found):.0f} MiB ({each})", flush=True)


async def measure(
    w: World, way: str, counts: list[int], windows: bool
) -> dict[str, object]:
    """Measure one way."""
    single = await one_machine(w, way)
    print(way, {k: round(v, 2) for k, v in single.items()}, flush=True)
    result: dict[str, object] = {"one": single}
    for count in counts:
        found = await many(w, way, count, windows=False)
        show(way, "idle", found)
        result[f"{count} idle"] = found
    if windows:
        found = await many(w, way, counts[-1], windows=True)
        show(way, "with a window", found)
        result[f"{counts[-1]} windows"] = found
    return result


async def main(ways: list[str], counts: list[int], windows: bool) -> dict[str, object]:
    """Measure and print."""
    image = await the_image()
    for way in PARENTS:
        if way in ways:
            await ready_parent(image, way, mode=PARENTS[way])
    async with world(WAYS, program="tests.kit.vm.patient_copies") as w:
        result = {way: await measure(w, way, counts, windows) for way in ways}
        hows = {e["how"] for e in w.events("sandbox.machine")}
        print(f"machines came up by {sorted(hows)}")
    return dict(result)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory")
    parser.add_argument("counts", metavar="COUNT", nargs="*", type=int)
    parser.add_argument("--way", action="append", choices=tuple(WAYS))
    parser.add_argument("--no-windows", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    words = arguments()
    found = trio.run(
        main, words.way or list(WAYS), words.counts or [1, 4, 8], not words.no_windows
    )
    if words.json:
        print(json.dumps(found))
