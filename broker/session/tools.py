"""The output of the session's programs.

A session child starts such a program by this and waits for it.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence

from broker.core.errors import UpstreamError
from broker.helpers.process import popen
from broker.ipc.captured_stderr import FirstWords


def tool_output(argv: Sequence[str], *, deadline: float, output_limit: int) -> bytes:
    """Run a trusted program to its end and return its output, as ``spawn.run_tool``."""
    words = FirstWords()
    process = popen.start_process(argv, stdout=popen.PIPE, stderr=words.fd)
    try:
        assert process.stdout is not None
        with process.stdout as stream:
            out = _read(stream.fileno(), time.monotonic() + deadline, output_limit)
        code = process.wait() if out is not None else 0
    finally:
        process.kill()
        tail = words.text()
        words.close()
    if out is None:
        raise UpstreamError(f"{argv[0]} took longer than {deadline:g} s")
    if code:
        raise UpstreamError(f"{argv[0]} failed with code {code}: {tail}")
    if len(out) > output_limit:
        raise UpstreamError(f"{argv[0]} printed more than {output_limit} bytes")
    return bytes(out)


def _read(fd: int, end: float, limit: int) -> bytearray | None:
    """Return what there is to the end, or one byte more than the limit; None: too late."""
    out, poll = bytearray(), select.poll()
    poll.register(fd, select.POLLIN)
    while poll.poll(max(0.0, end - time.monotonic()) * 1000):
        data = os.read(fd, 1 << 16)
        out += data
        del out[limit + 1 :]
        if not data:
            return out
    return None
