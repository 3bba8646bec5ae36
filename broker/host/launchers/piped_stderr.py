"""The messages of a child whose standard error is a pipe.

Only brokerctl runs this; it reads a pipe whose text may come from a sandbox.
"""

from __future__ import annotations

import os

from broker.core.escape import printable
from broker.helpers.process.spawn import Child

_PIPE_BYTES = 65536
"""As much as a pipe holds."""


def stderr_so_far(child: Child, limit: int) -> str:
    """Return the last messages of a child, escaped, in at most ``limit`` characters.

    For a child with ``stderr=PIPE``.  It does not wait: a program that the child has
    started may have the pipe open after the child's end.
    """
    pipe = child.popen.stderr
    assert pipe is not None
    os.set_blocking(pipe.fileno(), False)
    try:
        data = os.read(pipe.fileno(), _PIPE_BYTES)
    except BlockingIOError:
        data = b""
    return printable(data.strip()[-limit:], limit)
