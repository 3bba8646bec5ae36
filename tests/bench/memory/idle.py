"""Processor time of an idle machine, thread by thread.

    python -m tests.bench.memory.idle [--json] [SECONDS]

For a machine that has booted, a copy and one that shares memory: the share of a core that QEMU's main
thread, QEMU's other threads (the emulated processor, above all), vhost-device-vsock
and the sandbox's processes take in ``SECONDS`` (60), from
``/proc/PID/task/TID/schedstat``.  Other load on the machine does not count, but makes
each wake-up dearer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import trio

from tests.kit.vm.parents import Mode, ready_parent
from tests.kit.world import World, record, the_image, world

WAYS = {
    "boot": record(launch='fork = "no"'),
    "copy": record(),
    "shared": record(launch='fork = "shared"'),
}
PARENTS: dict[str, Mode] = {"copy": "copy", "shared": "shared"}
SETTLE_SECONDS = 20.0
"""The kernel and the agent finish the start."""


def thread_seconds(pid: int) -> dict[int, float]:
    """Return the seconds that each thread of a process has run."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds = (task / "schedstat").read_text().split()[0]
        found[int(task.name)] = int(nanoseconds) / 1e9
    return found


async def processes(w: World, sandbox: str) -> dict[str, int]:
    """Return the pid of each process that belongs to a sandbox, by its role."""
    found = (await w.status()).processes
    return {p.role: p.pid for p in found if p.sandbox == sandbox}


def seconds_by_part(pids: dict[str, int]) -> dict[str, float]:
    """Return the seconds that each part has run until now."""
    parts = {}
    for role, pid in pids.items():
        threads = thread_seconds(pid)
        if role == "QEMU":
            parts["QEMU, main thread"] = threads.pop(pid)
        name = "QEMU, other threads" if role == "QEMU" else role
        parts[name] = sum(threads.values())
    return parts


async def idle_shares(w: World, sandbox: str, seconds: float) -> dict[str, float]:
    """Return the share of a core that each part takes, in percent."""
    await trio.sleep(SETTLE_SECONDS)
    pids = await processes(w, sandbox)
    before, began = seconds_by_part(pids), time.monotonic()
    await trio.sleep(seconds)
    after, took = seconds_by_part(pids), time.monotonic() - began
    return {part: 100 * (after[part] - value) / took for part, value in before.items()}


async def start_idle(w: World, way: str) -> str:
    """Start a machine whose one program sleeps; returns the sandbox's name."""
    last, _ = await w.run(way, "sleep", "100000", window=False)
    assert last.started is not None
    return str(last.started.sandbox)


async def main(seconds: float, as_json: bool) -> None:
    """Measure and print."""
    image = await the_image()
    for way, mode in PARENTS.items():
        await ready_parent(image, way, mode=mode)
    result = {}
    async with world(WAYS) as w:
        for way in WAYS:
            sandbox = await start_idle(w, way)
            result[way] = await idle_shares(w, sandbox, seconds)
            await w.stop(sandbox)
            qemu = sum(v for part, v in result[way].items() if "QEMU" in part)
            for part, share in result[way].items():
                print(f"{way}: {part}: {share:.2f} % of a core", flush=True)
            print(f"{way}: QEMU in all: {qemu:.2f} % of a core", flush=True)
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    trio.run(main, *(numbers or [60]), "--json" in sys.argv)
