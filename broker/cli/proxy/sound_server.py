"""The user's sound server: where it is, and connecting to it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.net.addresses import UnixEndpoint
from broker.net.endpoints import connect


async def connect_server(path: Path) -> socket.socket:
    """Connect to the sound server.  Raises UpstreamError with the cause."""
    try:
        # It waits while the server has too many callers: PulseAudio lets five.
        return await connect(
            UnixEndpoint(path), deadline=limits.CONNECT_SECONDS, descriptors=True
        )
    except VitrailError as error:
        cause = error.__cause__
        why = cause.strerror if isinstance(cause, OSError) else error.message
        raise UpstreamError(
            (
                f"no sound server has a socket at {path}"
                if isinstance(cause, FileNotFoundError)
                else f"the sound server at {path} does not answer: {why}"
            ),
            hint="start pipewire-pulse or pulseaudio, or set PULSE_SERVER to its "
            "socket",
        ) from error


def server_path(name: str | None) -> Path:
    """Return the path of the sound server's socket, as libpulse finds it.

    Raises SetupError for a server that is not reached by a UNIX socket.
    """
    env = os.environ
    name = name or env.get("PULSE_SERVER", "")
    if name:
        # "{machine}unix:PATH", several with spaces between: the first one.
        first = name.split()[0].rpartition("}")[2].removeprefix("unix:")
        if first.startswith("/"):
            return Path(first)
        raise SetupError(
            f"the sound server '{name}' is not the absolute path of a UNIX socket",
            hint="set PULSE_SERVER=unix:/PATH, or unset it to use the session's "
            "sound server",
        )
    for variable, below in (
        ("PULSE_RUNTIME_PATH", "native"),
        ("XDG_RUNTIME_DIR", "pulse/native"),
    ):
        if env.get(variable, "").startswith("/"):
            return Path(env[variable]) / below
    raise SetupError(
        "XDG_RUNTIME_DIR is not set, so the sound server's socket cannot be found",
        hint="run the command inside the desktop session, or set "
        "PULSE_SERVER=unix:/PATH",
    )
