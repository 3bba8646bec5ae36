"""The socket of the user's compositor: where it is, and whether one answers."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path


def display_path(
    environ: Mapping[str, str] | None = None, *, name: str | None = None
) -> Path | None:
    """Return where a compositor's socket has to be, whether or not one is there.

    ``name``, or else WAYLAND_DISPLAY, is a path or a name below
    XDG_RUNTIME_DIR, ``wayland-0`` when neither is set (wl_display_connect(3)).
    WAYLAND_SOCKET is not considered: it is one connected descriptor, and we
    need a connection for each application.  None without a place to look in.
    """
    env = os.environ if environ is None else environ
    display = Path(name or env.get("WAYLAND_DISPLAY") or "wayland-0")
    if display.is_absolute():
        return display
    runtime = env.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) / display if runtime else None


def find_compositor(environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the socket of the running compositor, or None.

    It counts only if something accepts a connection at ``display_path``.
    """
    display = display_path(environ)
    return display if display is not None and accepts(display) else None


def accepts(path: Path) -> bool:
    """Return whether a program accepts a connection at this socket."""
    # Non-blocking: a compositor that hangs with a full backlog is useless.
    kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_UNIX, kind) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
