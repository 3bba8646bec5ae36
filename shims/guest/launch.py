"""The proof that the program at a port launched this machine, and the reverse."""

from __future__ import annotations

import binascii
import errno
import hashlib
import hmac
import json
import os
import selectors
import socket
from typing import Callable, Dict, Optional

from shims.guest.loop import Loop, log

# As in broker/net/peers/launch_secret.py.
PROOF_MAGIC = b"vitrail launch 1"
NONCE_BYTES = 32
SECRET_BYTES = 32
PROOF_SECONDS = 10.0
ANSWER_BYTES = NONCE_BYTES + hashlib.sha256().digest_size

# The settings of this launch by the names of the constants; the init of an image brings
# the file, and where it is too old for that, the launcher fills the constants in.
LAUNCH_FILE = "/usr/lib/vitrail/launch.json"
LAUNCH: Dict[str, str] = {}
LAUNCH_SECRET = ""
# Not empty: the broker listens on the ports below 1024, too.
LAUNCH_LOW_PORTS = ""


def read_launch(path: str = LAUNCH_FILE) -> None:
    """Read the settings of this launch, and remove their file.

    Raises OSError or ValueError.
    """
    try:
        with open(path, encoding="ascii") as file:
            LAUNCH.update(json.load(file))
    except FileNotFoundError:
        return
    os.unlink(path)


def launch_secret(path: str) -> bytes:
    """Return the launch's secret, or nothing if there is none.

    ``path`` names a file that has it in hexadecimal.  Raises OSError or ValueError.
    """
    text = LAUNCH.get("LAUNCH_SECRET", LAUNCH_SECRET)
    if path:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    secret = binascii.unhexlify(text)
    if secret and len(secret) != SECRET_BYTES:
        raise ValueError(f"the launch secret does not have {SECRET_BYTES} bytes")
    return secret


class Proof:
    """Both sides of a new connection prove that they know the launch's secret.

    A port says nothing about the program that listens there: after the broker's
    death any user of the host may.  Reads no byte beyond the answer.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        secret: bytes,
        service: str,
        done: "Callable[[Optional[socket.socket], int], None]",
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._secret = secret
        self._service = service
        self._done = done
        self._nonce = os.urandom(NONCE_BYTES)
        self._answer = b""
        self._deadline = loop.later(
            PROOF_SECONDS, lambda: self._finish(errno.ETIMEDOUT)
        )
        loop.watch(sock.fileno(), selectors.EVENT_READ, self._ready)
        try:
            sock.send(PROOF_MAGIC + self._nonce)
        except OSError as error:
            self._finish(error.errno or errno.EIO)

    def _ready(self, _events: int) -> None:
        """Read the broker's proof; check it when complete."""
        try:
            data = self._sock.recv(ANSWER_BYTES - len(self._answer))
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(error.errno or errno.EIO)
            return
        self._answer += data
        if not data:
            self._finish(errno.ECONNRESET)
        elif len(self._answer) == ANSWER_BYTES:
            self._check()

    def _check(self) -> None:
        """Check the broker's proof and send ours."""
        nonces = self._nonce + self._answer[:NONCE_BYTES]
        theirs = self._mac(b"broker", nonces)
        # guard: the broker proves the launch
        if not hmac.compare_digest(theirs, self._answer[NONCE_BYTES:]):
            log(f"another program is listening as {self._service}")
            self._finish(errno.EACCES)
            return
        try:
            self._sock.send(self._mac(b"guest", nonces))
        except OSError as error:
            self._finish(error.errno or errno.EIO)
            return
        self._finish(0)

    def _mac(self, label: bytes, nonces: bytes) -> bytes:
        text = label + b"\0" + self._service.encode() + b"\0" + nonces
        return hmac.new(self._secret, text, "sha256").digest()

    def _finish(self, code: int) -> None:
        self._deadline.cancel()
        self._loop.forget(self._sock.fileno())
        if code:
            self._sock.close()
        self._done(None if code else self._sock, code)
