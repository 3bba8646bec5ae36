"""The socket of the user's compositor: where it is, and a connection to it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from broker.core import limits
from broker.core.errors import UpstreamError


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
    """Whether something accepts a connection at this socket."""
    # Non-blocking: a compositor that hangs with a full backlog is useless.
    kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_UNIX, kind) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def connect_compositor(path: Path) -> socket.socket:
    """Return a new connection to the compositor, a blocking socket.

    Raises UpstreamError that says what failed, also when the compositor does
    not take the connection within KEEPER_CONNECT_SECONDS.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # connect(2) on a UNIX socket blocks while the backlog is full, for as
        # long as this (socket(7)); Python's own timeout does not cover it.
        seconds = limits.KEEPER_CONNECT_SECONDS
        patience = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        sock.connect(os.fspath(path))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
    except OSError as error:
        sock.close()
        raise UpstreamError(
            f"the compositor at {path} does not answer: {error.strerror}",
            hint="is it running, and is WAYLAND_DISPLAY (or --display) its socket?",
        ) from error
    return sock
