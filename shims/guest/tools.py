"""The commands for files and links that the agent installs in its guest."""

from __future__ import annotations

import contextlib
import os

FILES_COMMANDS = (
    "xdg-open",
    "x-www-browser",
    "vitrail-open",
    "vitrail-copy",
    "vitrail-files",
)

PORTAL_NAME = "org.freedesktop.portal.Desktop"
PORTAL_SERVICE = f"/usr/share/dbus-1/services/{PORTAL_NAME}.service"

# The source of the program for files and links: shims/bundle.py puts it here.
FILES_TOOL = ""

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


def write_file(path: str, data: bytes, mode: int) -> None:
    """Write a file of ours, in place of one that was there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.chmod(path, mode)
