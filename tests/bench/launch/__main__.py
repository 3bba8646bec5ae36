"""Time that a micro VM takes until it is paused and leased, and the jail's share.

    python -m tests.bench.launch [RUNS]

Starts the tiny guest, paused, with and without the jail of QEMU and
vhost-device-vsock, in turn, and prints least and median of each and of the
difference, in milliseconds.  Nothing of the guest runs.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import trio

from broker.launch.microvm import vmm_jail
from broker.launch.microvm.launcher import Tools, start_vm
from tests.kit.vm.machines import tiny_spec, vm_tools
from tests.kit.wayland.compositor import short_directory


async def started(tools: Tools, place: Path) -> float:
    """Start a machine and end it; return the seconds until it was paused."""
    async with trio.open_nursery() as nursery:
        began = time.perf_counter()
        vm = await start_vm(tiny_spec(place), tools, nursery=nursery)
        took = time.perf_counter() - began
        await vm.close()
    return took


async def _no_jail() -> str:
    return "left out by the benchmark"


async def main(runs: int) -> None:
    """Measure, in turn, so that a busy moment falls on both."""
    tools = await vm_tools()
    free = replace(tools, allow_unjailed=True)
    times: dict[str, list[float]] = {"jailed": [], "without": []}
    with short_directory() as place:
        await started(tools, place)  # warms the caches
        for _ in range(runs):
            times["jailed"].append(await started(tools, place))
            with patch.object(vmm_jail, "why_no_jail", _no_jail):
                times["without"].append(await started(free, place))
    for name, values in times.items():
        print(_row(name, values))
    lost = [a - b for a, b in zip(times["jailed"], times["without"], strict=True)]
    print(_row("difference", lost))


def _row(name: str, values: list[float]) -> str:
    least, median = min(values) * 1000, statistics.median(values) * 1000
    return f"{name:12} least {least:7.1f} ms   median {median:7.1f} ms"


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if sys.argv[1:] else 15)
