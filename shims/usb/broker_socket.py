"""A connection to the broker, which both programs make as root."""

from __future__ import annotations

import errno
import hmac
import os
import socket
import sys

HOST_CID = 2
RETRY_SECONDS = 2.0
PROOF_SECONDS = 10.0


def log(text: str) -> None:
    """Write a line to standard error."""
    print(f"vitrail: {text}", file=sys.stderr, flush=True)


def prove(sock: socket.socket, service: bytes) -> None:
    """Prove the launch to the broker and have it prove its own.

    As ``Proof`` of ``shims.guest.launch``; does nothing where the launch has no
    secret.  Raises OSError when the far end is not our broker.
    """
    path = os.environ.get("VITRAIL_SECRET") or "/run/vitrail/launch-secret"
    try:
        with open(path, encoding="ascii") as file:
            secret = bytes.fromhex(file.read().strip())
    except FileNotFoundError:
        return
    nonces, answer = os.urandom(32), b""
    sock.settimeout(PROOF_SECONDS)
    sock.sendall(b"vitrail launch 1" + nonces)
    while len(answer) < 64:
        more = sock.recv(64 - len(answer))
        if not more:
            raise ConnectionResetError(errno.ECONNRESET, "the broker broke it off")
        answer += more
    nonces += answer[:32]
    broker, guest = (
        hmac.new(secret, label + b"\0" + service + b"\0" + nonces, "sha256").digest()
        for label in (b"broker", b"guest")
    )
    # guard: the broker proves the launch to the programs for devices
    if not hmac.compare_digest(broker, answer[32:]):
        raise PermissionError(errno.EACCES, "the program there did not launch us")
    sock.sendall(guest)
    sock.settimeout(None)


def read_answer(sock: socket.socket) -> None:
    """Read the broker's answer, as ``guest/address.py``; raises OSError."""
    answer = sock.recv(1)
    code = answer[0] if answer else errno.ECONNRESET
    if code:
        raise OSError(code, os.strerror(code))


def connect(where: str, service: bytes) -> socket.socket:
    """Connect to ``vsock:CID:PORT``, ``unix:PATH`` or ``port:PATH``; raises OSError."""
    kind, _, rest = where.partition(":")
    sock = socket.socket(socket.AF_VSOCK if kind == "vsock" else socket.AF_UNIX)
    try:
        if kind != "vsock":
            sock.connect(rest)
            if kind == "port":
                read_answer(sock)
        else:
            cid, _, port = rest.partition(":")
            sock.connect((int(cid), int(port)))
        prove(sock, service)
    except BaseException:
        sock.close()
        raise
    return sock
