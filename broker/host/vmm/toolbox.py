"""Finding the programs that a micro VM needs on this host."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from broker.core.errors import SetupError
from broker.core.paths import Paths
from broker.host.images.store import Image
from broker.host.vmm.control import Monitor
from broker.host.vmm.launcher import Tools

_QEMU = "qemu-system-x86_64"


async def find_tools(
    paths: Paths,
    image: Image,
    monitor: Monitor,
    progress: Callable[[str], None],
) -> Tools:
    """Return the paths of the programs that a micro VM needs.

    Fetches or probes those that are not known yet.

    Raises SetupError with the package or the command that is missing.
    """
    if monitor is not Monitor.QEMU:
        return await _find_monitor(paths, image, monitor, progress)
    qemu = shutil.which(_QEMU)
    if qemu is None:
        raise SetupError(
            f"{_QEMU} is not installed",
            hint="run 'sudo apt install qemu-system-x86'",
        )
    # Late: a host loads the code that fetches packages with its first machine.
    from broker.host.vmm.accel import choose_accel
    from broker.host.vmm.hosttools import kernel_vsock_usable

    backend = None
    if not kernel_vsock_usable():
        backend = await _find_backend(paths, progress)
    progress("testing KVM (once after each boot of this machine)")
    choice = await choose_accel(
        Path(qemu), image.kernel, image.initrd, cache=paths.cache
    )
    if choice.tested and not choice.accel.uses_kvm:
        progress(f"machines are emulated: {choice.reason}; {choice.hint}")
    passt = shutil.which("passt")
    return Tools(
        vmm=Path(qemu),
        accel=choice.accel,
        vhost_device_vsock=backend,
        passt=None if passt is None else Path(passt),
    )


async def _find_monitor(
    paths: Paths,
    image: Image,
    monitor: Monitor,
    progress: Callable[[str], None],
) -> Tools:
    """Return the program of a VMM other than QEMU, which runs under KVM only.

    The first call after a boot boots a kernel in QEMU, to try KVM.
    """
    from broker.host.vmm.accel import choose_accel, permission
    from broker.host.vmm.qemu_arguments import Accel

    program = shutil.which(monitor.value)
    if program is None:
        raise SetupError(
            f"{monitor.value} is not installed",
            hint="install it as docs/launchers/vmm.md describes",
        )
    missing = permission()
    qemu = shutil.which(_QEMU)
    if missing is None and qemu is not None:
        # Only a guest that boots shows that KVM works.
        progress("testing KVM (once after each boot of this machine)")
        choice = await choose_accel(
            Path(qemu), image.kernel, image.initrd, cache=paths.cache
        )
        missing = None if choice.accel.uses_kvm else choice
    if missing is not None:
        raise SetupError(
            f"{monitor.program} requires KVM: {missing.reason}",
            hint=missing.hint or 'to emulate machines, set kind = "microvm"',
        )
    return Tools(
        vmm=Path(program).resolve(),
        accel=Accel.KVM,
        vhost_device_vsock=None
        if monitor.hybrid
        else await _find_backend(paths, progress),
        monitor=monitor,
    )


async def _find_backend(paths: Paths, progress: Callable[[str], None]) -> Path:
    """Find vhost-device-vsock, or fetch it.

    Fetching downloads a package, in a jail, and keeps its program in the state
    directory.
    """
    from broker.host.vmm.hosttools import (
        fetch_vhost_device_vsock,
        find_vhost_device_vsock,
    )

    found = find_vhost_device_vsock(paths)
    return found or await fetch_vhost_device_vsock(paths, progress)
