"""``vitrail.Secret``: one secret of the user's Secret Service, by its name.

The desktop's Secret Service is asked by secret-tool(1) for the item whose attribute
``vitrail`` is the name.  The caller's bytes are never read: it gets the frames of a
service that has written the secret and ended (``shims/files/calling.py``).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.core.errors import SetupError, UpstreamError
from broker.core.limits.transfer import SECRET_BYTES, SECRET_SECONDS
from broker.core.stderr_log import log_stderr
from broker.helpers.process.spawn import run_tool
from broker.viewer.opening.failures import ToldError

_FRAME = struct.Struct(">BI")
_DATA, _EXIT = 0, 1


@asynccontextmanager
async def user_secret(name: str) -> AsyncIterator[socket.socket]:
    """Read a secret with secret-tool(1) and yield a socket that delivers it.

    It is delivered as a service would.  ``name`` has the form of a service's argument.
    Raises ToldError when the user has no secret of this name or it cannot be read.
    """
    words = ["secret-tool", "lookup", "vitrail", name]
    try:
        # It has no message for a secret that is not there, and code 1.
        found = await run_tool(
            words, deadline=SECRET_SECONDS, output_limit=SECRET_BYTES
        )
    except (SetupError, UpstreamError) as error:
        # The error has no output of it: the secret is in no log.
        log_stderr(f"vitrail: the secret {name}: {error.message}")
        raise ToldError(f"the user's own desktop has no secret {name}") from error
    near, far = socket.socketpair()
    with near, far:
        frames = [(_DATA, found)] if found else []
        for kind, data in (*frames, (_DATA, b""), (_EXIT, b"\0")):
            far.sendall(_FRAME.pack(kind, len(data)) + data)
        yield near
