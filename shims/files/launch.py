"""The proof that the program at a port launched this machine."""

from __future__ import annotations

import os
import socket

from shims.files.doors import SECRET_FILE
from shims.files.protocol import TransferError

# As in broker/net/peers/launch_secret.py.
PROOF_MAGIC = b"vitrail launch 1"
PROOF_SECONDS = 10.0


def prove(sock: socket.socket, service: str) -> None:
    """Prove the launch to the broker and have it prove its own.

    As ``shims/guest/launch.py``; does nothing where the launch has no secret.
    Raises TransferError when the far end is not our broker.
    """
    path = os.environ.get("VITRAIL_SECRET") or SECRET_FILE
    try:
        with open(path, encoding="ascii") as file:
            secret = bytes.fromhex(file.read().strip())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise TransferError(f"no launch secret: {error}") from None
    try:
        sock.settimeout(PROOF_SECONDS)
        _exchange(sock, secret, service.encode())
        sock.settimeout(None)
    except OSError as error:
        raise TransferError(f"no broker: {error}") from None


def _exchange(sock: socket.socket, secret: bytes, service: bytes) -> None:
    import hmac

    nonces, answer = os.urandom(32), b""
    sock.sendall(PROOF_MAGIC + nonces)
    while len(answer) < 64:
        more = sock.recv(64 - len(answer))
        if not more:
            raise TransferError("the broker broke it off")
        answer += more
    nonces += answer[:32]
    broker, guest = (
        hmac.new(secret, label + b"\0" + service + b"\0" + nonces, "sha256").digest()
        for label in (b"broker", b"guest")
    )
    # guard: the broker proves the launch to the files tool
    if not hmac.compare_digest(broker, answer[32:]):
        raise TransferError("the program at the broker's port did not launch us")
    sock.sendall(guest)
