"""Finding the programs that a micro VM needs on this host."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from broker.core.distribution import install_hint
from broker.core.errors import SetupError
from broker.core.paths import Paths
from broker.host.images.store import Image
from broker.host.vmm.launcher import Tools

_QEMU = "qemu-system-x86_64"


async def find_tools(
    paths: Paths,
    image: Image,
    progress: Callable[[str], None],
) -> Tools:
    """Return the paths of the programs that a micro VM needs.

    Fetches or probes those that are not known yet.

    Raises SetupError with the package or the command that is missing.
    """
    qemu = shutil.which(_QEMU)
    if qemu is None:
        raise SetupError(
            f"{_QEMU} is not installed",
            hint=install_hint("qemu-system-x86"),
        )
    # Late: a host loads the code that fetches packages with its first machine.
    from broker.host.vmm.accel import choose_accel
    from broker.host.vmm.hosttools import kernel_vsock_usable

    backend = None
    if not kernel_vsock_usable():
        backend = await _find_backend(paths, progress)
    choice = await choose_accel(
        Path(qemu), image.kernel, image.initrd, cache=paths.cache, progress=progress
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
