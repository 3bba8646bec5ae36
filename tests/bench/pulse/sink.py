"""A sound server for measuring: takes all it is sent and stamps each frame.

    python -m tests.bench.pulse.sink SOCKET

Speaks as much of the protocol as one stream needs, asks for as much as comes,
and at a connection's end prints one line of JSON: the microseconds from the
time in each frame's first eight bytes to its arrival.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from broker.jail.sound import frames
from broker.jail.sound.commands import Command
from tests.kit.sound.talk import Said, Server

_STAMP = struct.Struct("d")


def _read(conn: socket.socket) -> bytes:
    try:
        return conn.recv(1 << 17)
    except ConnectionResetError:
        return b""  # it closed with something unread


def serve(conn: socket.socket) -> None:
    """One connection."""
    model, cutter = Server(), frames.Cutter(1 << 20)
    model.first_request = 1 << 30
    times: list[float] = []
    with conn:
        while data := _read(conn):
            now = time.monotonic()
            cutter.push(data)
            while (frame := cutter.next()) is not None:
                if isinstance(frame, frames.Samples):
                    if frame.first and len(frame.data) >= _STAMP.size:
                        (then,) = _STAMP.unpack_from(frame.data)
                        if then:  # else the rest of a frame that came in two
                            times.append(now - then)
                    continue
                number, tag = frames.head(frame.body)
                said = Said(Command(number), tag, frame.body[frames.HEAD_BYTES :])
                conn.sendall(model.answer(said))
    if times:
        sys.stdout.write(json.dumps([round(t * 1e6, 1) for t in times]) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Entry point."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{sys.argv[1]}.new")
        listener.listen(64)
        Path(f"{sys.argv[1]}.new").rename(sys.argv[1])  # who sees it can connect
        while True:
            conn, _ = listener.accept()
            threading.Thread(target=serve, args=(conn,), daemon=True).start()


if __name__ == "__main__":
    main()
