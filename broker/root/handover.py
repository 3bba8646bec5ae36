"""Descriptors that go over: a guest's socket to the kernel, a device's node to a VMM."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from broker.core.errors import RefusedError, UpstreamError
from broker.root.sysfs import SysfsDevice


def check_socket(conn: socket.socket) -> None:
    """Raise RefusedError unless a socket is a guest's connection.

    The kernel takes any stream socket.
    """
    if conn.family not in {socket.AF_VSOCK, socket.AF_UNIX}:
        raise RefusedError("the socket is neither a vsock nor a UNIX connection")
    if conn.type != socket.SOCK_STREAM:
        raise RefusedError("the socket is not a stream")


def open_node(held: SysfsDevice) -> int:
    """Return the device's open node, for another process to use.

    The number is the device's as long as its directory lives, so a node that
    was opened before the directory is seen alive is that device's.  Raises
    DeviceGoneError, UpstreamError.
    """
    bus, number = held.number("busnum"), held.number("devnum")
    try:
        node = os.open(f"/dev/bus/usb/{bus:03d}/{number:03d}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UpstreamError(f"cannot open the device node: {error}") from error
    try:
        held.number("devnum")
    except BaseException:
        os.close(node)
        raise
    return node


class Reserve:
    """Descriptors that are free when a device is taken back, whatever else has them all."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._fill()

    def _fill(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._fds) < 8:
                self._fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Free the reserved descriptors while the block runs; reserve them again."""
        # guard: a device is taken back without a descriptor left
        while self._fds:
            os.close(self._fds.pop())
        try:
            yield
        finally:
            self._fill()
