"""The programs for USB devices and security keys, where the kernel can have them.

The guest agent writes their files and starts them, as root.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Dict

from shims.guest.loop import log
from shims.guest.tools import DEVICES_TOOL, SECURITY_KEY_TOOL, write_file

if TYPE_CHECKING:
    from shims.guest.guest import Guest

# The kernel's, once the modules vhci-hcd and uhid are loaded; Debian's cloud kernel has
# neither, so there these programs cost nothing.
VHCI_DIRECTORY = "/sys/devices/platform/vhci_hcd.0"
UHID = "/dev/uhid"


def start_root_programs(guest: "Guest") -> None:
    """Start ``vitrail_devices.py`` and ``vitrail_security_key.py`` where they can work.

    Separate processes: they wait in the kernel, and what the first is sent must
    reach the kernel unread.  They run as root, as we do, and give the nodes of what
    comes to the guest's user, because there is no udev.
    """
    environ = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "VITRAIL_DEVICES": guest.settings.devices.text,
        "VITRAIL_SECURITY_KEY": guest.settings.security_key.text,
        "VITRAIL_DEVICES_USER": f"{guest.account.uid}:{guest.account.gid}",
    }
    if guest.settings.secret:
        environ["VITRAIL_SECRET"] = os.path.join(
            guest.settings.runtime, "launch-secret"
        )
    for name, source, needed in (
        ("vitrail_devices.py", DEVICES_TOOL, VHCI_DIRECTORY),
        ("vitrail_security_key.py", SECURITY_KEY_TOOL, UHID),
    ):
        if source and os.path.exists(needed):
            _start_root_program(guest, name, source, environ)


def _start_root_program(
    guest: "Guest", name: str, source: str, environ: Dict[str, str]
) -> None:
    """Write and start a program that runs as root."""
    path = os.path.join(guest.settings.runtime, name)
    try:
        write_file(path, source.encode(), 0o644)
        process = subprocess.Popen(
            ["/usr/bin/python3", "-I", "-S", "-B", path],
            stdin=subprocess.DEVNULL, env=environ, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        log(f"{name}: {error}")
        return
    guest.loop.child(process, lambda code: log(f"{name} ended with code {code}"))
