"""Connecting to an endpoint; with ``addresses`` and ``listeners``, all of them.

Others import from here; the two other modules are its halves.

An end of the link connects by this, and brokerctl.
"""

from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import PeerError, UpstreamError
from broker.core.escape import printable
from broker.net.addresses import (
    Endpoint,
    HybridEndpoint,
    UnixEndpoint,
    VsockEndpoint,
    explain_connect,
    new_socket,
)
from broker.net.refused_descriptors import refuse_descriptors
from broker.wire.packets import when_ready

_CONNECT_RETRY_SECONDS = 0.02


async def connect(
    endpoint: Endpoint,
    *,
    deadline: float = limits.CONNECT_SECONDS,
    descriptors: bool = False,
) -> socket.socket:
    """Return a connected, non-blocking socket that the caller owns.

    ``descriptors``: whether a UNIX socket's far end may send some, where the
    kernel can refuse them (``ipc.refuse_descriptors``).
    For a hybrid endpoint the hand-shake is done and nothing beyond it read.
    Raises UpstreamError or SetupError with a sentence, also when it takes
    longer than ``deadline`` seconds.
    """
    try:
        with trio.fail_after(deadline):
            match endpoint:
                case UnixEndpoint():
                    return await _connect_unix(
                        endpoint, endpoint.path, descriptors=descriptors
                    )
                case VsockEndpoint():
                    return await _connect_vsock(endpoint)
                case HybridEndpoint():
                    return await _connect_hybrid(endpoint)
    except trio.TooSlowError as error:
        raise UpstreamError(
            f"{endpoint} did not answer within {deadline:g} s",
            hint="check whether the program that listens there is busy or stopped",
        ) from error
    except OSError as error:
        raise explain_connect(endpoint, error) from error


def connect_at_once(
    endpoint: Endpoint, path: Path, *, descriptors: bool = False
) -> socket.socket | None:
    """Return a socket connected to a path, None where that has to wait.

    Raises OSError if it cannot be connected.
    """
    sock = new_socket(socket.AF_UNIX, endpoint)
    # guard: who is connected to sends no descriptor
    if not descriptors:
        refuse_descriptors(sock)
    try:
        sock.connect(os.fspath(path))
    except OSError as error:
        sock.close()
        # A full backlog, and no event reports when there is room (unix(7)).
        if isinstance(error, BlockingIOError):
            return None
        raise
    return sock


async def _connect_unix(
    endpoint: Endpoint, path: Path, *, descriptors: bool = False
) -> socket.socket:
    """Connect to a UNIX socket; waits where its backlog is full."""
    await trio.lowlevel.checkpoint_if_cancelled()
    while not (sock := connect_at_once(endpoint, path, descriptors=descriptors)):  # noqa: ASYNC110
        await trio.sleep(_CONNECT_RETRY_SECONDS)
    return sock


async def _connect_vsock(endpoint: VsockEndpoint) -> socket.socket:
    sock = new_socket(socket.AF_VSOCK, endpoint)
    try:
        try:
            sock.connect((endpoint.cid, endpoint.port))
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number)) from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_hybrid(endpoint: HybridEndpoint) -> socket.socket:
    """Connect to a VMM's socket and request the guest's port."""
    sock = await _connect_unix(endpoint, endpoint.path)
    try:
        # One send: some VMMs parse only the first read.  A fresh socket's
        # buffer always has room for it.
        sock.send(f"CONNECT {endpoint.port}\n".encode())
        await _await_ok(endpoint, sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def _await_ok(endpoint: HybridEndpoint, sock: socket.socket) -> None:
    """Read the VMM's line ``OK <number>`` and not one byte more."""
    untrusted_line = bytearray()
    while (
        not untrusted_line.endswith(b"\n")
        and len(untrusted_line) < limits.HYBRID_ANSWER_BYTES
    ):
        # One at a time: what follows the newline is the stream's.
        read = partial(sock.recv, 1)
        untrusted_byte = await when_ready(read, trio.lowlevel.wait_readable, sock)
        if not untrusted_byte:
            raise UpstreamError(
                f"no program in the guest accepts connections on port {endpoint.port}",
                hint="check whether the guest and its service have started",
            )
        untrusted_line += untrusted_byte
    if not (untrusted_line.startswith(b"OK ") and untrusted_line.endswith(b"\n")):
        raise PeerError(
            f"{endpoint.path} does not speak hybrid vsock: "
            f"it answered {printable(bytes(untrusted_line), 60)!r}",
            hint="use the VMM's vsock socket, not the socket of a port",
        )
