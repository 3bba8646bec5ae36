"""Which code starts and controls the machines of VMMs other than QEMU.

Each is loaded with the first machine that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from broker.launch.microvm.control import Connect, Monitor, connect_qemu

if TYPE_CHECKING:
    from broker.launch.microvm.launcher import MakePlan, Tools, Vm, VmSpec


def connect_by(monitor: Monitor) -> Connect:
    """Return how a later broker connects to a machine's VMM."""
    if monitor is Monitor.FIRECRACKER:
        from broker.launch.firecracker.machine import connect

        return connect
    return connect_qemu


async def start_machine(
    spec: VmSpec,
    tools: Tools,
    *,
    cache: Path,
    nursery: trio.Nursery,
    quarantine: Container[int],
    on_loss: Callable[[str], None],
) -> Vm:
    """Start a machine of another VMM, paused.  Raises as ``start_vm``.

    ``cache`` is where a kernel is unpacked to, for a VMM that needs that.
    """
    from broker.launch.firecracker.machine import FirecrackerPlan
    from broker.launch.microvm.launcher import start_vm
    from broker.launch.monitors.vmlinux import find_vmlinux

    make_plan: MakePlan = FirecrackerPlan
    kernel = await trio.to_thread.run_sync(find_vmlinux, spec.kernel, cache)
    return await start_vm(
        replace(spec, kernel=kernel),
        tools,
        nursery=nursery,
        quarantine=quarantine,
        on_loss=on_loss,
        make_plan=make_plan,
    )
