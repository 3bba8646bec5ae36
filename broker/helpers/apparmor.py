"""AppArmor: a process adds its own profile to the one that it was started with.

The kernel attaches ``vitrail`` to our programs by their paths, where that profile is
loaded (``broker/data/security/apparmor``).  Then authority, viewer and worker call
``add_profile`` on themselves, and have the rights that both profiles have from then on.

Sources: lsm_set_self_attr(2) of Linux 6.8, which needs no /proc; apparmor.d(5).
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from broker.core.errors import SetupError

_libc = ctypes.CDLL(None, use_errno=True)
_GET_SELF, _SET_SELF = 459, 460  # the same numbers everywhere
_CURRENT, _APPARMOR, _SINGLE = 100, 104, 1
_HEADER = struct.Struct("QQQQ")
"""struct lsm_ctx: module, flags, length with and without this header."""
_LABEL_BYTES = 4096
PROFILE = "vitrail"
"""The profile that the kernel attaches to our programs."""
FILE = Path("/etc/apparmor.d/vitrail")
LOAD_COMMAND = f"sudo apparmor_parser -r {FILE}"
_SYSCTL = Path("/proc/sys")
_RULE = "kernel/apparmor_restrict_unprivileged_userns"
"""Ubuntu's rule: only programs whose profile says so make user namespaces."""
_NEEDED = (("kernel/unprivileged_userns_clone", 1), ("user/max_user_namespaces", 10000))
"""Settings that forbid user namespaces if they are 0, and other values."""


def own_label() -> str:
    """Return this process's label, such as "unconfined"; "" without AppArmor."""
    context = ctypes.create_string_buffer(
        _HEADER.pack(_APPARMOR, 0, 0, 0), _LABEL_BYTES
    )
    size = ctypes.c_uint32(_LABEL_BYTES)
    read = _libc.syscall(_GET_SELF, _CURRENT, context, ctypes.byref(size), _SINGLE)
    if read < 1:  # an older kernel, or one without AppArmor
        return ""
    length = _HEADER.unpack_from(context)[3]
    label = context.raw[_HEADER.size : _HEADER.size + length]
    return label.rstrip(b"\0").decode(errors="replace")


def restricts_namespaces() -> bool:
    """Return whether Ubuntu's rule restricts unprivileged user namespaces."""
    return _setting(_RULE) > 0


def namespaces_hint() -> str:
    """Return what to do if this process cannot create user namespaces.

    AppArmor's rule stays as it is: it protects the machine from every other program.
    """
    # A profile of another program, such as a terminal's, may deny them, too.
    confined = own_label().partition(" ")[0] not in ("", "unconfined")
    if confined or restricts_namespaces():
        if FILE.exists():
            return f"load our profile: {LOAD_COMMAND}"
        return (
            "install Vitrail's package, whose AppArmor profile permits user namespaces "
            "to Vitrail alone; for other installations see apparmor.md"
        )
    changes = [
        f"{name.replace('/', '.')}={value}"
        for name, value in _NEEDED
        if _setting(name) == 0
    ]
    if changes:
        return f"sudo sysctl {' '.join(changes)}"
    return (
        "ask whoever configured this machine or container to permit user namespaces "
        "(unshare(2)) to this user"
    )


def _setting(name: str) -> int:
    """Return the value of a setting of the kernel; -1 if it has none of this name."""
    try:
        return int((_SYSCTL / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return -1


def add_profile(role: str) -> None:
    """Add the profile of a role to this process, which has one thread, for good.

    Nothing happens if the kernel has attached none of our profiles.  Raises SetupError.
    """
    if not own_label().startswith(PROFILE):
        return
    name = f"{PROFILE}_{role}"
    command = f"stack {name}\0".encode()
    length = _HEADER.size + len(command)
    context = _HEADER.pack(_APPARMOR, 0, length, len(command)) + command
    # guard: a process with an AppArmor profile gets the one of its role, too
    if _libc.syscall(_SET_SELF, _CURRENT, context, length, 0):
        reason = os.strerror(ctypes.get_errno())
        raise SetupError(
            f"cannot enter the AppArmor profile '{name}': {reason}", hint=LOAD_COMMAND
        )
