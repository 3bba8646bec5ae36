"""Which code starts and controls the machines of VMMs other than QEMU.

Each is loaded with the first machine that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from broker.core.parts.absent import needed
from broker.host.vmm.control import Connect, Monitor, connect_qemu

if TYPE_CHECKING:
    from broker.host.vmm.launcher import Tools
    from broker.host.vmm.monitors.plan import MonitorPlan
    from broker.host.vmm.parent.request import StartedVm
    from broker.host.vmm.qemu_arguments import VmSpec


def connect_by(monitor: Monitor) -> Connect:
    """Return how a later broker connects to a machine's VMM."""
    return connect_qemu if monitor is Monitor.QEMU else _plan(monitor).connect


async def start_machine(
    spec: VmSpec,
    tools: Tools,
    place: tuple[Path, trio.Nursery],
    quarantine: Container[int],
    on_loss: Callable[[str], None],
) -> StartedVm:
    """Start a machine of another VMM, paused.  Raises as ``start_vm``.

    ``place`` is the cache, where a kernel is unpacked to for a VMM that needs that,
    and what watches the machine.
    """
    from broker.host.vmm.launcher import start_vm
    from broker.host.vmm.parent.request import StartedVm

    cache, nursery = place
    make_plan = _plan(tools.monitor)
    spec = replace(spec, kernel=await make_plan.find_kernel(spec.kernel, cache))
    vm = await start_vm(
        spec,
        tools,
        nursery=nursery,
        quarantine=quarantine,
        on_loss=on_loss,
        make_plan=make_plan,
    )
    return StartedVm(vm, "boot", f"{tools.monitor.program} machines always boot")


def _plan(monitor: Monitor) -> type[MonitorPlan]:
    """Import and return the plan of a monitor's machines."""
    with needed(f"starting machines with {monitor.program}"):
        if monitor is Monitor.FIRECRACKER:
            from broker.host.launchers.firecracker.machine import FirecrackerPlan

            return FirecrackerPlan
        if monitor is Monitor.CROSVM:
            from broker.host.launchers.crosvm.machine import CrosvmPlan

            return CrosvmPlan
        from broker.host.launchers.cloud_hypervisor.machine import CloudHypervisorPlan

        return CloudHypervisorPlan
