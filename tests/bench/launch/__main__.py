"""Time and memory of machines that boot, and of copies of one that booted.

    python -m tests.bench.launch [RUNS [MACHINES]]

For each way, RUNS times in turn: seconds from the order to the agent's hello, and
to the first output of a shell.  Then MACHINES of each way at once, idle: the
memory of their QEMUs (Pss of /proc/PID/smaps_rollup), each and in all.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from tests.kit.vm.copies import StartedCopies, output, stage

SETTLE_SECONDS = 5.0


async def measure_time(s: StartedCopies, name: str, mode: str) -> tuple[float, float]:
    """Return the seconds to hello and to output; the machine is ended."""
    began = trio.current_time()
    async with s.machine(name, mode=mode) as (started, broker, _vm):
        if started.how != mode:
            raise RuntimeError(f"wanted {mode}, was {started.how}: {started.why}")
        hello = trio.current_time() - began
        await output(broker, "echo")
        return hello, trio.current_time() - began


async def measure_memory(s: StartedCopies, mode: str, count: int) -> list[float]:
    """Return the MiB of each of ``count`` idle machines."""
    async with AsyncExitStack() as stack:
        machines = []
        for number in range(count):
            made = s.machine(f"{mode}{number}", mode=mode)
            _started, _broker, vm = await stack.enter_async_context(made)
            machines.append(vm)
        await trio.sleep(SETTLE_SECONDS)
        return [pss(vm.vmm.pid) for vm in machines]


def pss(pid: int) -> float:
    """Return a process's proportional share of memory in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no Pss of {pid}")


async def main(runs: int, count: int) -> None:
    """Print two tables."""
    async with stage() as s:
        began = trio.current_time()
        await s.starter.make(await s.request("maker"))
        print(f"parent made in {trio.current_time() - began:.1f} s")
        times: dict[str, list[tuple[float, float]]] = {"copy": [], "boot": []}
        for run in range(runs):
            for mode, found in times.items():
                found.append(await measure_time(s, f"{mode}{run}", mode))
        print(f"{'':6} {'hello':>20} {'output':>20}   (seconds: median, all)")
        for mode, found in times.items():
            cells = []
            for column in zip(*found, strict=True):
                every = " ".join(f"{value:.2f}" for value in sorted(column))
                cells.append(f"{statistics.median(column):.2f} ({every})")
            print(f"{mode:6} {cells[0]:>20} {cells[1]:>20}")
        for mode in times:
            sizes = await measure_memory(s, mode, count)
            each = " ".join(f"{size:.0f}" for size in sizes)
            print(f"{mode:6} {count} idle: {sum(sizes):.0f} MiB ({each})")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:3]]
    trio.run(main, *(numbers + [5, 4][len(numbers) :]))
