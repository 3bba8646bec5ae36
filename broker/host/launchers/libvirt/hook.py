"""Where libvirt's hooks go.

Only brokerctl runs this; it writes below ``/etc``, so it must run as root.

``/etc/libvirt/hooks/qemu.d`` and ``lxc.d`` (since libvirt 6.5.0), for the system's libvirtd and
for those of sessions: libvirt 9.0's session daemon looks there and nowhere else
(seen with strace; https://libvirt.org/hooks.html).
"""

from __future__ import annotations

import json
from pathlib import Path

from broker.core.files.replace_file import replace_file
from shims.bundle import hook_program as hook_text

_PROGRAM = "vitrail"
FOLDER = Path("/etc/libvirt/hooks")
SETTINGS = Path("/etc/vitrail/libvirt-hook.json")


def hook_program(folder: Path, driver: str = "qemu") -> Path:
    """Our hook in a directory of hooks, for one of libvirt's drivers."""
    return folder / f"{driver}.d" / _PROGRAM


def hook_source() -> bytes:
    """The hook's own text, of this version of Vitrail."""
    return hook_text()


def install_hook(
    uid: int | None, folder: Path = FOLDER, settings: Path = SETTINGS
) -> list[Path]:
    """Write libvirt's hook and its settings; return the files.  Raises OSError.

    ``uid``: the user to whose broker the system's libvirtd reports.  None: only
    session daemons report, so there is no LXC hook and no settings file.
    """
    # libvirt's LXC driver is the system's alone, and reports to one user's broker.
    drivers = ("qemu",) if uid is None else ("qemu", "lxc")
    written = [hook_program(folder, driver) for driver in drivers]
    for path in written:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(path, hook_source(), mode=0o755)
    if uid is None:
        return written
    settings.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # guard: the settings of root's hook are root's to write
    replace_file(settings, (json.dumps({"uid": uid}) + "\n").encode(), mode=0o644)
    return [*written, settings]
