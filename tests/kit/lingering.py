"""A socket whose last close(2) takes as long as its maker has chosen."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

from broker.wire import fdpass

_SECONDS = 1000
_BEFORE = 40
"""Messages before: the receiver has not come to the socket when its maker has ended."""
_COPIES = 100
"""More than a receiver takes."""


@contextlib.contextmanager
def given_slow_socket(sock: socket.socket, message: bytes) -> Iterator[None]:
    """Send messages, and a last one with a TCP socket that lingers.

    Its other end is open, and reads nothing, while the block runs.  Its maker is a
    process that ends, of which the kernel does not make it wait.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        pid = os.fork()
        if pid == 0:
            try:
                _give(sock, message, server.getsockname())
            finally:
                os._exit(0)
        deaf, _ = server.accept()
    with deaf:
        os.waitpid(pid, 0)
        yield


def _give(sock: socket.socket, message: bytes, address: tuple[str, int]) -> None:
    slow = socket.create_connection(address)
    slow.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            slow.send(bytes(1 << 16))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _SECONDS))
    null = os.open(os.devnull, os.O_RDWR)
    for _ in range(_BEFORE):
        fdpass.send(sock, message, [null, null])
    fdpass.send(sock, message, [slow.fileno()] * _COPIES)
