"""The proof that the program at a port launched this machine.

The program in the sandbox runs it; the host has the other side
(``broker/net/peers/launch_secret.py``).
"""

from __future__ import annotations

import errno
import os
import socket

from shims.files.doors import SECRET_FILE, open_door

# As in broker/net/peers/launch_secret.py.
PROOF_MAGIC = b"vitrail launch 1"
PROOF_SECONDS = 10.0


def open_proved(address: str, service: str) -> socket.socket:
    """Connect to a port of the broker that launched us.  Raises OSError, ValueError."""
    made = socket.socket(fileno=open_door(address).detach())
    try:
        prove(made, service.encode())
    except BaseException:
        made.close()
        raise
    return made


def prove(sock: socket.socket, service: bytes) -> None:
    """Prove the launch to the broker and have it prove it, too.

    As ``Proof`` of ``shims.guest.launch``; does nothing where the launch has no
    secret.  Raises OSError when the far end is not our broker, ValueError for a file
    that is not a secret.
    """
    path = os.environ.get("VITRAIL_SECRET") or SECRET_FILE
    try:
        with open(path, encoding="ascii") as file:
            secret = bytes.fromhex(file.read().strip())
    except FileNotFoundError:
        return
    import hmac

    nonces, answer = os.urandom(32), b""
    sock.settimeout(PROOF_SECONDS)
    sock.sendall(PROOF_MAGIC + nonces)
    while len(answer) < 64:
        more = sock.recv(64 - len(answer))
        if not more:
            raise ConnectionResetError(errno.ECONNRESET, "the broker disconnected")
        answer += more
    nonces += answer[:32]
    broker, guest = (
        hmac.new(secret, label + b"\0" + service + b"\0" + nonces, "sha256").digest()
        for label in (b"broker", b"guest")
    )
    # guard: the broker proves the launch to the programs for files and devices
    if not hmac.compare_digest(broker, answer[32:]):
        raise PermissionError(errno.EACCES, "the peer did not launch this sandbox")
    sock.sendall(guest)
    sock.settimeout(None)
