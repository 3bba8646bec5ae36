"""Programs that a host needs and Debian's stable suites do not have.

Without ``/dev/vhost-vsock`` a machine's vsock is served by the program
``vhost-device-vsock``.  It is in Debian's unstable suite only; its package's
binary runs on Debian 12.  ``broker.host.vmm.fetch`` fetches it, in a jail.

The host finds the program by this for a start; brokerctl does for a script and for
``doctor``, and fetches it on the user's word.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from broker.core import limits
from broker.core.distribution import install_command
from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool
from broker.helpers.tools import profiles

VHOST_DEVICE_VSOCK = "vhost-device-vsock"
KERNEL_DEVICE = Path("/dev/vhost-vsock")
VSOCK_COMMANDS = (
    f"sudo modprobe vhost_vsock; sudo setfacl -m u:$USER:rw {KERNEL_DEVICE}"
)
"""The commands that let this user open it."""


def kernel_vsock_usable(device: Path = KERNEL_DEVICE) -> bool:
    """Return whether this user may open the kernel's vsock device."""
    return os.access(device, os.R_OK | os.W_OK)


def find_vhost_device_vsock(paths: Paths) -> Path | None:
    """Return vhost-device-vsock's path; None if it is not installed nor fetched."""
    installed = shutil.which(VHOST_DEVICE_VSOCK)
    if installed:
        return Path(installed)
    fetched = paths.tools / VHOST_DEVICE_VSOCK
    return fetched if os.access(fetched, os.X_OK) else None


async def fetch_vhost_device_vsock(
    paths: Paths, progress: Callable[[str], None], *, mirror: str = ""
) -> Path:
    """Return vhost-device-vsock's path; fetch the program if this machine has none.

    A separate process fetches, so that nothing that is downloaded is read by a process that
    holds machines.  Raises SetupError, with what to do instead, when it cannot be had.
    """
    if (present := find_vhost_device_vsock(paths)) is not None:
        return present
    if shutil.which("apt-get") is None:
        raise SetupError(
            f"{VHOST_DEVICE_VSOCK} is not installed, and cannot be downloaded without "
            "apt",
            hint=f"run '{VSOCK_COMMANDS}', or: {install_command(VHOST_DEVICE_VSOCK)}",
        )
    progress(f"downloading {VHOST_DEVICE_VSOCK} from {mirror or 'the Debian archive'}")
    argv = our_program(*profiles.FETCH.start, str(paths.tools), mirror)
    try:
        await run_tool(argv, name="fetch", deadline=2 * limits.IMAGE_BUILD_SECONDS)
    except (UpstreamError, OSError) as error:
        raise SetupError(
            f"cannot download {VHOST_DEVICE_VSOCK}: {error}",
            hint=f"run '{VSOCK_COMMANDS}', or install {VHOST_DEVICE_VSOCK}",
        ) from error
    return paths.tools / VHOST_DEVICE_VSOCK
