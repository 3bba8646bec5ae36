"""At the other end, in the sound server's place.  Standard library only.

    python3 way_sink.py PIECE ADDRESS…     unix:PATH or vsock:PORT

A connection says one letter and a number: U, so many bytes will come, then it
gets "k"; D, it wants so many; E, everything back.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading


def exactly(sock, size):
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def serve(sock, piece):
    try:
        with sock:
            order, amount = struct.unpack("<cQ", exactly(sock, 9))
            if order == b"U":
                while amount:
                    data = sock.recv(min(amount, 1 << 16))
                    if not data:
                        return
                    amount -= len(data)
                sock.sendall(b"k")
                sock.recv(1)
            elif order == b"D":
                block = bytes(piece)
                while amount:
                    amount -= sock.send(block[: min(amount, piece)])
                sock.recv(1)
            else:
                while data := sock.recv(4096):
                    sock.sendall(data)
    except OSError:
        return


def listen(address):
    kind, _, rest = address.partition(":")
    if kind == "unix":
        os.makedirs(os.path.dirname(rest), mode=0o700, exist_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(rest)
    else:
        sock = socket.socket(socket.AF_VSOCK)
        sock.bind((socket.VMADDR_CID_ANY, int(rest)))
    sock.listen(64)
    return sock


def accept(listener, piece):
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=serve, args=(conn, piece), daemon=True).start()


if __name__ == "__main__":
    for address in sys.argv[2:]:
        words = (listen(address), int(sys.argv[1]))
        threading.Thread(target=accept, args=words, daemon=True).start()
    print("listens", flush=True)
    threading.Event().wait()
