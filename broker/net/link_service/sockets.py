"""Reading, writing and knowing the far end of the link's sockets.

All sockets here are non-blocking and bare (``socket.socket``), because a data
stream goes to the pump once it is authenticated; not a byte beyond what a
message needs is read.

Host and viewer run it, and ``brokerctl link pair`` for the connection of a pairing.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from functools import partial

import trio
from typing_extensions import Buffer

from broker.core.errors import RefusedError, UpstreamError
from broker.net.addresses import HybridEndpoint
from broker.net.endpoints import connect
from broker.net.link.epoch import Session
from broker.net.link.handshake import Fresh, Handshake, HandshakeState
from broker.net.link.keys import BrokerIdentity, Peers
from broker.net.link.wire_types import LinkRefusedError, Role
from broker.net.link_service.config import LinkConfig
from broker.net.peers.peer_process import peer_numbers
from broker.wire.packets import when_ready

_CHUNK = 4096


async def receive(sock: socket.socket, most: int = _CHUNK) -> bytes:
    """Wait for the next bytes, b"" at the end.  Raises UpstreamError if it broke."""
    read = partial(sock.recv, most)
    try:
        return await when_ready(read, trio.lowlevel.wait_readable, sock)
    except OSError as error:
        raise UpstreamError(f"the link failed: {error.strerror}") from error


async def send_some(sock: socket.socket, data: Buffer) -> int:
    """Send as much as there is room for; returns the number of bytes.

    Raises UpstreamError when the connection broke.
    """
    send = partial(sock.send, data)
    try:
        return await when_ready(send, trio.lowlevel.wait_writable, sock)
    except OSError as error:
        raise UpstreamError(f"the link failed: {error.strerror}") from error


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send everything.  Raises as ``send_some``."""
    while data:
        data = data[await send_some(sock, data) :]


def describe_far_end(sock: socket.socket, config: LinkConfig) -> str:
    """Return the other end's identity, from the kernel, for status and events.

    Raises RefusedError unless the configuration names it.
    """
    if sock.family == socket.AF_VSOCK:
        cid = sock.getpeername()[0]
        if cid != config.peer_cid:
            raise RefusedError(
                f"the link accepts connections only from CID {config.peer_cid}, not from {cid}",
                hint="set peer_cid in link.toml to the CID of the other broker's machine",
            )
        return f"cid {cid}"
    if isinstance(config.endpoint, HybridEndpoint):
        # The directory of the VMM's sockets is the guard; the process that
        # connects is the VMM, whose uid is its launcher's affair.
        return str(config.endpoint)
    # Only the uid is checked, which stays valid when that process has ended; the
    # handshake or the preamble proves the peer's identity.
    uid = peer_numbers(sock)[1]
    if uid != config.uid:
        raise RefusedError(
            f"the link accepts connections only from uid {config.uid}, not from {uid}",
            hint="set peer_uid in link.toml to the uid of the other broker",
        )
    return f"uid {uid}"


async def dial(config: LinkConfig) -> socket.socket:
    """Connect to the other broker's endpoint and check the answering process.

    Raises UpstreamError or SetupError when none answers, RefusedError when it
    is another user's process.
    """
    sock = await connect(config.endpoint)
    try:
        if sock.family == socket.AF_UNIX:
            describe_far_end(sock, config)
    except BaseException:
        sock.close()
        raise
    return sock


async def shake_hands(
    sock: socket.socket,
    *,
    role: Role,
    dials: bool,
    identity: BrokerIdentity,
    peers: Peers,
    first: bytes = b"",
    known: Callable[[], None] | None = None,
) -> tuple[Session, bytes]:
    """Run a handshake; return the session and the bytes received after it.

    The caller keeps the deadline and the socket.  ``first`` was read already;
    ``known`` is called once the other end has named a pinned key.
    Raises LinkRefusedError (the other end was notified) or UpstreamError.
    """
    machine = Handshake(
        role=role,
        dials=dials,
        identity=identity,
        peers=peers,
        fresh=Fresh.make(secrets.token_bytes),
    )
    try:
        if dials:
            await send_all(sock, machine.start())
        while machine.session is None:
            untrusted = first or await receive(sock)
            first = b""
            if not untrusted:
                machine.eof()
            answer = machine.feed(untrusted)
            if known is not None and machine.state is HandshakeState.WAIT_PROOF:
                known()
            await send_all(sock, answer)
    except LinkRefusedError as error:
        if error.answer:
            await _tell(sock, error.answer)
        raise
    return machine.session, machine.rest()


async def _tell(sock: socket.socket, answer: bytes) -> None:
    """Send a refusal, if that can be done at once: nothing hangs on it."""
    try:
        sock.send(answer)
    except OSError:
        return
    await trio.lowlevel.checkpoint()
