"""Receivers of this machine: a file, the journal's socket.

The shipper's jail shows neither, because a file that is rotated, or a socket that is made
again, is found by its directory only.  The process outside of the jail opens what
``ship.toml`` names each time that the shipper asks: one byte for each, answered by the
descriptor, or by the number of an error.
"""

from __future__ import annotations

import os
import socket
import struct

import trio

from broker.core.errors import PeerError
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper.config import JournaldTarget, JsonlTarget
from broker.wire import fdpass

LocalTarget = JournaldTarget | JsonlTarget
_ERROR = struct.Struct("<i")


def open_receiver(config: LocalTarget) -> int:
    """Open a file to append to, or connect to the journal; return the descriptor.

    Raises OSError.
    """
    if isinstance(config, JsonlTarget):
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(config.path, flags, 0o600)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.connect(config.socket)
        return journal.detach()


async def serve_receiver(door: socket.socket, config: LocalTarget) -> None:
    """Open a receiver for each byte, until the other end has gone."""
    door.settimeout(0)
    while True:
        await trio.lowlevel.wait_readable(door)
        try:
            if not door.recv(1):
                return
        except OSError:
            return
        try:
            opened = open_receiver(config)
        except OSError as error:
            answer, fds = _ERROR.pack(error.errno or 0), []
        else:
            answer, fds = _ERROR.pack(0), [opened]
        try:
            fdpass.send(door, answer, fds)
        except OSError:  # a sender that does not read its answers gets no others
            return
        finally:
            fdpass.close_all(fds)


def ask_for_receiver(door: socket.socket) -> int:
    """Request a receiver's descriptor from the process outside.  Raises OSError."""
    door.settimeout(audit_limits.SHIP_SECONDS)
    door.sendall(b"o")
    try:
        got = fdpass.receive(door, _ERROR.size, 1)
        (number,) = _ERROR.unpack(got.data)
    except (PeerError, struct.error) as error:
        raise OSError(0, f"cannot open the receiver: {error}") from error
    if not got.fds:
        raise OSError(number, os.strerror(number))
    return got.fds[0]
