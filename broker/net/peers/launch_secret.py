"""The proof that broker and guest belong to the same launch.

AF_VSOCK has one port space for the machine and no permissions on it: after a
broker's death any local user can listen on its ports, and the guests that
still run connect to that program.  So each launch has a secret that the
launcher puts into the guest's initramfs, never on a command line, and both
sides prove that they know it before the first byte of a service:

    guest   MAGIC, 32 random bytes (``HELLO_BYTES`` together)
    broker  32 random bytes, HMAC-SHA256 over its label, the service and both
    guest   HMAC-SHA256 over its label, the service and both

The labels differ, so neither side can be used to answer for the other, and the
service is in the proof, so a proof for one port is worth nothing at another.
The guest's proof also shows that a CID was not taken by another machine.
The guest's side is in ``shims/guest``.

Only the host runs it, and puts the secret into the initramfs.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import RefusedError, SetupError
from broker.core.names import ServiceName

SECRET_BYTES = 32
NONCE_BYTES = 32
MAGIC = b"vitrail launch 1"
HELLO_BYTES = len(MAGIC) + NONCE_BYTES
PROOF_BYTES = hashlib.sha256().digest_size
FILE = "launch-secret"
"""Its name in a sandbox's runtime directory, for the broker that adopts."""


@dataclass(frozen=True)
class LaunchSecret:
    """A secret that only a launch's broker and its guest know."""

    value: bytes = field(repr=False)

    def write(self, directory: Path) -> None:
        """Store the secret for the next broker, readable for us alone.  Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(directory / FILE, flags, 0o600), "wb") as file:
            file.write(self.value.hex().encode())

    def proof(self, label: bytes, service: ServiceName, nonces: bytes) -> bytes:
        """Return the HMAC of ``label``'s side."""
        # guard: a proof is for one service
        text = label + b"\0" + service.encode() + b"\0" + nonces
        return hmac.digest(self.value, text, "sha256")


def draw_secret() -> LaunchSecret:
    """Return a new secret."""
    return LaunchSecret(os.urandom(SECRET_BYTES))


def read_secret(directory: Path) -> LaunchSecret | None:
    """Read the secret of a machine that an earlier broker launched.

    None: it was launched without one.  Raises SetupError for a file that is not
    a secret, OSError when it cannot be read.
    """
    try:
        fd = os.open(directory / FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        text = file.read(2 * SECRET_BYTES + 1)
    if not re.fullmatch(rb"[0-9a-f]{%d}" % (2 * SECRET_BYTES), text):
        raise SetupError(f"{directory / FILE} is not a launch secret")
    return LaunchSecret(bytes.fromhex(text.decode()))


@dataclass(frozen=True)
class Challenge:
    """The broker's answer to a hello, and what the guest must send then."""

    reply: bytes
    expected: bytes = field(repr=False)


def challenge(
    secret: LaunchSecret, service: ServiceName, untrusted_hello: bytes, nonce: bytes
) -> Challenge:
    """Answer a hello of HELLO_BYTES.  Raises RefusedError when it is not one."""
    if not untrusted_hello.startswith(MAGIC):
        raise RefusedError("the guest did not begin with an authentication message")
    nonces = untrusted_hello[len(MAGIC) :] + nonce
    # guard: each side has its own label
    reply = nonce + secret.proof(b"broker", service, nonces)
    return Challenge(reply, secret.proof(b"guest", service, nonces))


async def prove(
    conn: socket.socket, secret: LaunchSecret, service: ServiceName
) -> None:
    """Prove the launch to the guest at ``conn``, and have it prove it, too.

    Reads exactly the two messages, so the first byte of the service is still
    unread.  Raises RefusedError when the guest does not prove the launch
    within LAUNCH_PROOF_SECONDS.  ``conn`` is non-blocking and stays open.
    """
    with trio.move_on_after(limits.LAUNCH_PROOF_SECONDS) as patience:
        untrusted_hello = await _read(conn, HELLO_BYTES)
        mine = challenge(secret, service, untrusted_hello, os.urandom(NONCE_BYTES))
        await _write(conn, mine.reply)
        untrusted_proof = await _read(conn, PROOF_BYTES)
        # guard: a guest proves its launch
        if not hmac.compare_digest(untrusted_proof, mine.expected):
            raise RefusedError("the guest does not know the secret of this launch")
    if patience.cancelled_caught:
        raise RefusedError(
            f"the guest did not authenticate within {limits.LAUNCH_PROOF_SECONDS:g} s"
        )


async def _read(conn: socket.socket, count: int) -> bytes:
    """Read so many bytes.  Raises RefusedError where the guest closes before."""
    untrusted_data = b""
    while len(untrusted_data) < count:
        await trio.lowlevel.wait_readable(conn)
        try:
            untrusted_more = conn.recv(count - len(untrusted_data))
        except BlockingIOError:
            continue
        except OSError as error:
            raise RefusedError(f"the connection failed: {error.strerror}") from error
        if not untrusted_more:
            raise RefusedError("the connection ended before the guest's proof")
        untrusted_data += untrusted_more
    return untrusted_data


async def _write(conn: socket.socket, data: bytes) -> None:
    """Send data to the guest.  Raises RefusedError where it does not read it."""
    try:
        sent = conn.send(data)
    except OSError as error:
        raise RefusedError(f"the connection failed: {error.strerror}") from error
    if sent != len(data):  # nothing was sent on it before: there is room for 64 bytes
        raise RefusedError("the guest does not read from the connection")
