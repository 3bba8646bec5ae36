"""Time that the jail of a machine's processes takes at its start.

    python -m tests.bench.launch.jail [RUNS]

In turn, so that a busy moment falls on both: vhost-device-vsock until it listens,
started as it is and in its jail.  QEMU's jail is made by the same function.  Prints
median and least in milliseconds, and the difference of each pair.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import trio

from broker.core.errors import SetupError
from broker.core.paths import find_paths
from broker.host.processes.ready import wait_listening
from broker.host.processes.tracked import Tracked, spawn_helper
from broker.host.vmm import vsock_backend
from broker.host.vmm.hosttools import find_vhost_device_vsock


async def bare(tool: Path, directory: Path) -> Tracked:
    """Start it without a jail."""
    sockets = directory / vsock_backend.VSOCK_DIRECTORY
    sockets.mkdir(mode=0o700)
    backend = directory / vsock_backend.BACKEND_SOCKET
    uds = sockets / vsock_backend.UDS_NAME
    words = vsock_backend.hybrid_args(tool, vsock_backend.draw_cid(), backend, uds)
    env = vsock_backend.hybrid_environment()
    return spawn_helper(vsock_backend.HELPER, words, env=env)


async def jailed(tool: Path, directory: Path) -> Tracked:
    """Start it in its jail."""
    return await vsock_backend.spawn_backend(tool, directory, vsock_backend.draw_cid())


async def seconds(tool: Path, *, jail: bool) -> float:
    """Return the time until it listens."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as name:
        directory = Path(name)
        began = time.perf_counter()
        process = await (jailed if jail else bare)(tool, directory)
        try:
            await wait_listening(directory / vsock_backend.BACKEND_SOCKET, process)
            return time.perf_counter() - began
        finally:
            process.kill()
            await process.wait()
            process.close()


async def main(runs: int) -> None:
    """Measure and print."""
    tool = find_vhost_device_vsock(find_paths())
    if tool is None:
        raise SetupError("vhost-device-vsock is not installed")
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(runs + 1):  # the first one warms the caches
        for jail in (False, True):
            took = await seconds(tool, jail=jail)
            if turn:
                times[jail].append(took * 1000)
    pairs = [b - a for a, b in zip(times[False], times[True], strict=True)]
    rows = {"as it is": times[False], "in its jail": times[True], "difference": pairs}
    print(f"on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    for name, values in rows.items():
        least, median = min(values), statistics.median(values)
        print(f"{name:12} least {least:5.1f}  median {median:5.1f} ms")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 15)
