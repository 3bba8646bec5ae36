"""``vitrail.Secret``: one secret of the user's Secret Service, by its name.

The desktop's Secret Service is asked by secret-tool(1) for the item whose attribute
``vitrail`` is the name.  The caller's bytes are never read: it gets the frames of a
service that has written the secret and ended (``shims/files/calling.py``).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time

from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits.transfer import SECRET_BYTES, SECRET_SECONDS
from broker.core.services import SECRET
from broker.helpers.process import popen
from broker.ipc.session import services as m
from broker.session.errand import Errand

_TOOL = "secret-tool"
_FRAME = struct.Struct(">BI")
_DATA, _EXIT = 0, 1


def ask_secret(errand: Errand, order: m.AskSecret) -> None:
    """Read a secret with secret-tool(1), and answer with a socket that delivers it.

    It is delivered as a service would.  Raises RefusedError, SetupError, UpstreamError.
    """
    permit = errand.permit(order.warrant, {SECRET})
    # guard: a permit for one secret reads no other one
    if not order.name or permit.argument != f"+{order.name}":
        raise RefusedError(f"a permit for {permit.argument} is not for this secret")
    found = _look_up(errand, order.name)
    near, far = socket.socketpair()
    with near, far:
        frames = [(_DATA, found)] if found else []
        for kind, data in (*frames, (_DATA, b""), (_EXIT, b"\0")):
            far.sendall(_FRAME.pack(kind, len(data)) + data)
        errand.answer(fds=[near.fileno(), far.fileno()])


def _look_up(errand: Errand, name: str) -> bytes:
    """Return a secret.  The error has nothing of the tool's output."""
    found = bytearray()
    read, write = os.pipe2(os.O_CLOEXEC)

    def collect(_process: popen.Process) -> None:
        os.close(write)
        deadline, waiting = time.monotonic() + SECRET_SECONDS, select.poll()
        waiting.register(read)
        while waiting.poll(max(0, deadline - time.monotonic()) * 1000):
            data = os.read(read, SECRET_BYTES)
            found.extend(data)
            if len(found) > SECRET_BYTES:
                raise UpstreamError(f"{_TOOL} printed more than {SECRET_BYTES} bytes")
            if not data:
                return
        raise UpstreamError(f"{_TOOL} took longer than {SECRET_SECONDS:g} s")

    words = [_TOOL, "lookup", "vitrail", name]
    # It has no message for a secret that is not there, and code 1.
    code = errand.run(words, stdout=write, begun=collect)
    if code:
        raise UpstreamError(f"{_TOOL} failed with code {code}")
    return bytes(found)
