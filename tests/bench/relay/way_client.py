"""In the application's machine: the load.  Standard library only.

    python3 way_client.py CID PORT PIECE MEASURE AMOUNT [MEASURE AMOUNT]…

prints numbers for each in turn: ``up`` and ``down`` MB/s, ``ping`` the median
and the 99th of a hundred in microseconds, ``setup`` connections a second, each
with one answer.
"""

from __future__ import annotations

import socket
import struct
import sys
import time


def connected(cid, port, order, amount):
    sock = socket.socket(socket.AF_VSOCK)
    sock.connect((cid, port))
    sock.sendall(struct.pack("<cQ", order, amount))
    return sock


def up(cid, port, amount, piece):
    block = bytes(piece)
    with connected(cid, port, b"U", amount) as sock:
        began, left = time.monotonic(), amount
        while left:
            left -= sock.send(block[: min(left, piece)])
        assert sock.recv(1) == b"k"
        return [amount / (time.monotonic() - began) / 1e6]


def down(cid, port, amount, _piece):
    began, left = time.monotonic(), amount
    with connected(cid, port, b"D", amount) as sock:
        while left:
            data = sock.recv(65536)
            assert data
            left -= len(data)
    return [amount / (time.monotonic() - began) / 1e6]


def ping(cid, port, amount, _piece):
    took, message = [], bytes(64)
    with connected(cid, port, b"E", 0) as sock:
        for _ in range(amount + 10):
            began = time.monotonic()
            sock.sendall(message)
            left = 64
            while left:
                left -= len(sock.recv(left))
            took.append((time.monotonic() - began) * 1e6)
    took = sorted(took[10:])
    return [took[len(took) // 2], took[len(took) * 99 // 100]]


def setup(cid, port, amount, _piece):
    began = time.monotonic()
    for _ in range(amount):
        with connected(cid, port, b"U", 0) as sock:
            assert sock.recv(1) == b"k"
    return [amount / (time.monotonic() - began)]


if __name__ == "__main__":
    cid, port, piece = (int(word) for word in sys.argv[1:4])
    measures = {"up": up, "down": down, "ping": ping, "setup": setup}
    words = sys.argv[4:]
    for name, much in zip(words[::2], words[1::2], strict=False):
        print(*measures[name](cid, port, int(much), piece))
