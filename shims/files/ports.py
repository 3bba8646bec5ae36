"""TCP ports: the stream of a call is a connection to a port of this sandbox's loopback.

After the broker's answer there are only the connection's own bytes, in both
directions: nothing frames them, and nothing between the two ends reads them.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from shims.files.asking import take_option
from shims.files.connection import BrokerConnection
from shims.files.frames import PIECE_BYTES
from shims.files.protocol import TransferError, frame, tell

if TYPE_CHECKING:
    from typing import List

PORT_SERVICE = "vitrail.Tcp"
LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 10.0
# Some machines' sockets cannot be half-closed, so the far end may not see that this
# one has sent all: the rest of its data is waited for this long.
LAST_SECONDS = 3.0
AT_ONCE = 64  # connections of one vitrail-connect
CONNECT_USAGE = "usage: vitrail-connect [--target SANDBOX] PORT [LOCAL-PORT]"


def take_port(text: str) -> int:
    """Return a port's number.  Raises TransferError."""
    # int() raises ValueError for thousands of digits, and for "²", which isdigit() takes.
    if not text.isdecimal() or len(text) > 5 or not 0 < int(text) < 65536:
        raise TransferError(f"'{text}' is not a port number")
    return int(text)


def serve_port(connection: BrokerConnection, source: str, text: str) -> int:
    """Connect a call to a port of this sandbox's loopback; returns at its end."""
    port = take_port(text)
    try:
        sock = socket.create_connection((LOOPBACK, port), CONNECT_SECONDS)
    except OSError as error:
        tell(f"vitrail: {source}: port {port}: {error.strerror or error}")
        return 1
    with sock:
        sock.settimeout(None)
        carry_bytes(connection, sock)
    return 0


def carry_bytes(connection: BrokerConnection, sock: socket.socket) -> None:
    """Carry bytes between the broker's connection and a socket, until both ends."""
    # Late, as everywhere in this program: most of its starts do without.
    import threading

    sent = threading.Event()
    received = threading.Event()

    def outward() -> None:
        with contextlib.suppress(OSError):
            while True:
                data = sock.recv(PIECE_BYTES)
                if not data:
                    break
                connection.socket.sendall(data)
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_WR)
        sent.set()

    def inward() -> None:
        with contextlib.suppress(OSError):
            while True:
                data = connection.reader.read1(1 << 18)
                if not data:
                    break
                sock.sendall(data)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        received.set()
        # Where it was broken off, the far end takes no more bytes of this one.

    for work in (outward, inward):
        threading.Thread(target=work, daemon=True).start()
    sent.wait()
    received.wait(LAST_SECONDS)
    with contextlib.suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)


def ask_connect(words: List[str]) -> int:
    """Forward a local port: ``vitrail-connect [--target SANDBOX] PORT [LOCAL-PORT]``.

    Listens on a port of this sandbox's loopback, and has each connection connected to
    the port of another sandbox, or of the user's own with the target @adminvm.
    """
    target, words = take_option(words, "--target", "-t")
    if not 1 <= len(words) <= 2:
        raise TransferError(CONNECT_USAGE)
    port = take_port(words[0])
    local = take_port(words[-1])
    import threading

    places = threading.BoundedSemaphore(AT_ONCE)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, local))
        listener.listen()
        tell(f"vitrail: forwarding port {local} of this sandbox to port {port}")
        while True:
            places.acquire()
            sock, _ = listener.accept()

            def one(sock: socket.socket = sock) -> None:
                with sock:
                    connect_port(target, port, sock)
                places.release()

            threading.Thread(target=one, daemon=True).start()


def connect_port(target: str, port: int, sock: socket.socket) -> None:
    """Have one connection carried to a port of ``target``."""
    try:
        connection = BrokerConnection("VITRAIL_CALL")
        ask = {"type": "call", "service": PORT_SERVICE, "argument": str(port)}
        connection.send(frame(dict(ask, target=target)))
        connection.wait("go")
    except (TransferError, OSError) as error:
        tell(f"vitrail: cannot connect to port {port}: {error}")
        return
    carry_bytes(connection, sock)
    connection.socket.close()
