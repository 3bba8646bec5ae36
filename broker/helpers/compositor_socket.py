"""The socket of the user's compositor: where it is, and whether one answers.

Processes that have the user's session ask: authority, session children, keepers, the
prompt agent and brokerctl.  ``find_compositor`` and ``accepts`` connect to the socket;
the other functions only look at files and variables.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

_MOST = 33
"""Names that a compositor takes by itself are numbered below it (libwayland)."""


def display_setting(environ: Mapping[str, str] | None = None) -> Path | None:
    """Return where the environment says that a compositor's socket is.

    WAYLAND_DISPLAY is a path or a name below XDG_RUNTIME_DIR (wl_display_connect(3)).
    Where it is not set it is XDG_RUNTIME_DIR itself, for ``present_display`` to look in: a
    broker may start before the session has exported the variable, and its environment
    never changes.
    WAYLAND_SOCKET is not considered: it is one connected descriptor, and we
    need a connection for each application.  None without a place to look in.
    """
    env = os.environ if environ is None else environ
    display = Path(env.get("WAYLAND_DISPLAY") or "")
    if display.is_absolute():
        return display
    runtime = env.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) / display if runtime else None


def named_display() -> str:
    """Return the socket that WAYLAND_DISPLAY names; empty if it is not set."""
    env = os.environ
    setting = display_setting(env) if env.get("WAYLAND_DISPLAY") else None
    return "" if setting is None else str(setting)


def present_display(setting: Path) -> Path:
    """Return where a compositor's socket has to be now.

    Of a directory it is ``wayland-0``; where nothing answers there, the only other
    socket of the user's with such a name that something answers at.  Where several do,
    none is chosen.
    """
    if not setting.is_dir():
        return setting
    first = setting / "wayland-0"
    if accepts(first):
        return first
    # Tried by name: a keeper may not list the directory.
    places = (setting / f"wayland-{number}" for number in range(1, _MOST))
    # guard: windows go to no compositor that has to be guessed
    others = [place for place in places if _is_own(place) and accepts(place)]
    return others[0] if len(others) == 1 else first


def _is_own(place: Path) -> bool:
    """Return whether it is a socket of this user's."""
    try:
        found = place.lstat()
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.getuid()


def display_path(environ: Mapping[str, str] | None = None) -> Path | None:
    """Return where a compositor's socket has to be, whether or not one is there.

    ``present_display`` of ``display_setting``.
    """
    setting = display_setting(environ)
    return None if setting is None else present_display(setting)


def adopt_display() -> None:
    """Set WAYLAND_DISPLAY in this process, if it is not set and a compositor answers.

    For programs that read it, and that start when the compositor is there.
    """
    if not os.environ.get("WAYLAND_DISPLAY") and (found := find_compositor()):
        os.environ["WAYLAND_DISPLAY"] = str(found)


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
