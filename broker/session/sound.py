"""Where the user's sound server is: PulseAudio, or PipeWire in its place.

A session child finds it for the viewer and connects; ``brokerctl doctor`` and ``audio``
only find it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from broker.core.errors import SetupError


def find_sound(environ: Mapping[str, str] | None = None) -> Path:
    """Find the sound server's socket, as libpulse looks for it.

    PULSE_SERVER when it names a UNIX socket of this machine, or else
    ``pulse/native`` below PULSE_RUNTIME_PATH or XDG_RUNTIME_DIR
    (pulse-client.conf(5), pulseaudio(1)).  Connecting shows whether
    a server answers there.  Raises SetupError when there is no such place.
    """
    env = os.environ if environ is None else environ
    for word in env.get("PULSE_SERVER", "").split():
        # "{machine-id}unix:PATH" is how a server names itself to its clients.
        path = word.rpartition("}")[2].removeprefix("unix:")
        if path.startswith("/"):
            return Path(path)
    if env.get("PULSE_SERVER"):
        raise SetupError(
            "PULSE_SERVER does not name a UNIX socket of this machine",
            hint="unset PULSE_SERVER, or set it to unix:/run/user/UID/pulse/native",
        )
    if env.get("PULSE_RUNTIME_PATH"):
        return Path(env["PULSE_RUNTIME_PATH"]) / "native"
    if env.get("XDG_RUNTIME_DIR"):
        return Path(env["XDG_RUNTIME_DIR"]) / "pulse/native"
    raise SetupError(
        "cannot find the sound server: XDG_RUNTIME_DIR is not set",
        hint="start the broker from your desktop session",
    )
