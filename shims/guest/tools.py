"""The commands for files and links that the agent installs in its guest.

The guest agent writes them into the machine at its start.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

from shims.guest.own_process import close_agent_files, in_child

FILES_COMMANDS = (
    "xdg-open",
    "x-www-browser",
    "vitrail-open",
    "vitrail-copy",
    "vitrail-files",
    "vitrail-call",
    "vitrail-connect",
    "vitrail-ssh-agent",
    "vitrail-sanitize",
    "vitrail-harmless",
    "vitrail-print",
    "qrexec-client-vm",
)

QREXEC_CLIENT = "qrexec-client-vm"
# Programs that were written for Qubes call it by these names.
QREXEC_PLACES = (f"/usr/bin/{QREXEC_CLIENT}", f"/usr/lib/qubes/{QREXEC_CLIENT}")

BUS_SERVICES = {
    "org.freedesktop.portal.Desktop": "portal",
    "org.freedesktop.Notifications": "notifications",
    "org.kde.StatusNotifierWatcher": "tray",
}
"""Names on the session bus, and the verb of the files tool that serves each."""
SYSTEM_SERVICES = "/usr/share/dbus-1/services"

TOOL_START = (
    'import gc, sys; gc.disable(); sys.path.insert(0, "{directory}"); '
    "import vitrail_files; gc.enable(); sys.exit(vitrail_files.main(sys.argv[1:]))"
)
"""Python that runs the program for files and links from a directory."""

CALL_START = (
    'import sys; sys.path.insert(0, "{directory}"); '
    "import vitrail_call; vitrail_call.run_call(sys.argv[1:])"
)
"""The same for the program that only calls."""
CALL_COMMANDS = ("vitrail-call", "qrexec-client-vm")

# The source of the program for files and links: shims/bundle.py puts it here.
FILES_TOOL = ""

# The same for the one that only calls.
CALL_TOOL = ""

# The same for the program that shows X11 windows.
X11_BRIDGE = ""

# The same for the program that leaves the pixels of windows in an arena.
WAYLAND_END = ""

# Those of the programs that take USB devices and security keys, in the same way.
DEVICES_TOOL = ""
SECURITY_KEY_TOOL = ""


def files_tool() -> bytes:
    """Return the source of the program for files and links.

    Raises ValueError in an agent that was not made by ``shims/bundle.py``.
    """
    if not FILES_TOOL:
        raise ValueError("this agent was not made by shims/bundle.py")
    return FILES_TOOL.encode()


def call_tool() -> bytes:
    """Return the source of the program that only calls.  Raises as ``files_tool``."""
    if not CALL_TOOL:
        raise ValueError("this agent was not made by shims/bundle.py")
    return CALL_TOOL.encode()


def write_file(path: str, data: bytes, mode: int) -> None:
    """Write a file of ours, in place of an old one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def link_for_qubes(program: str) -> None:
    """Make the names of Qubes' program for calls, where the guest has none of its own."""
    for place in QREXEC_PLACES:
        if os.path.lexists(place):
            continue  # of the start before, or the guest's own
        os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
        os.symlink(program, place)


def compile_aside(directory: str, *modules: str) -> int:
    """Have the bytecode of modules made, in a process that gives way to all others.

    Returns its pid.  Without KVM, its programs start in a third of the time.  Where that
    fails, or is not done yet, each start compiles it.
    """

    def work() -> int:
        close_agent_files()
        os.nice(19)
        os.umask(0o022)
        sys.path.insert(0, directory)
        sys.dont_write_bytecode = False
        for module in modules:
            importlib.import_module(module)
        return 0

    return in_child(work)
