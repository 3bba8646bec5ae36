"""Messages between a broker and its fork servers, and of a worker to its keeper.

A fork server is a process that has imported all that its children need, so that
each child costs a fork.  It has one thread and never reads a sandbox's byte.
There are three: of helpers (starter, pumps, keepers, acceptors), of jailed halves of
workers, and the starter, of the viewer's orders with the user's rights.

One msgpack value in one packet of a SEQPACKET socket (``wire.fdpass``): one
answer for each order.  The descriptors of an order are the child's.  Those of the
answer are its pidfd and the read end of a pipe, into which the server writes
how the child ended (``END``).  A pipe that ends without that says that the
server died first.  The server is trusted: any other message
is an internal error.

Orders come from the host, the viewer or a session child; the fork server and its children
have the other ends.
"""

from __future__ import annotations

import enum
import struct
from typing import Annotated, TypeAlias

import msgspec

from broker.core import limits
from broker.core.decoding import Reader, TypedMessage, reader
from broker.core.errors import InternalError

_Text = Annotated[str, msgspec.Meta(max_length=4000)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]

ENTRANCES = 16
"""Most listening sockets of one acceptor."""
DESCRIPTORS = 2 * ENTRANCES + 1
"""Most descriptors of an order."""
CHILDREN = 2048
"""Most children of one client at one time: a keeper, an acceptor or a jailed half for each
of LEASES sandboxes, and those that end."""
ORDERS = 250
"""Children of the starter at one time, each for an order of the viewer."""
ORDERS_OF_USER = 50
"""Of these kept for the user's calls and the broker's own orders, which no sandbox has
caused: connections to the desktop's bus, fork servers, a handful of calls."""
ANSWERED = 2
"""Descriptors of ``Forked``."""
MESSAGE_BYTES = 65536
END = struct.Struct("<i")
"""How a child ended: its exit code, or minus the signal's number."""


class ForkServerKind(enum.StrEnum):
    """The fork servers that are started again when they have died."""

    HELPERS = "helpers"
    WORKERS = "workers"


ALLOW_UNJAILED = "allow-unjailed"
"""The argument of ``WORKERS`` that permits them where no jail can be built."""


class Jail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which walls a worker has.

    ``landlock`` is the kernel's ABI version that was used, 0 for none.
    ``missing`` says why, if there are no namespaces.
    """

    namespaces: bool
    seccomp: bool
    landlock: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    missing: _Text = ""


# -- orders ------------------------------------------------------------------------


class ForkWorker(TypedMessage, frozen=True, tag="fork-worker"):
    """Fork the jailed half of a worker.

    Descriptors: its socket to the broker, the listening socket of the sandbox's
    Wayland clients, its socket to the keeper, its pipe to the broker.
    """

    number: _Count
    allow_unjailed: bool


class ForkKeeper(TypedMessage, frozen=True, tag="fork-keeper"):
    """Fork a keeper.

    Descriptors: its socket to the broker, its socket to the jailed half, the
    jailed half's pidfd.  ``compositor`` is the path of the compositor's socket,
    ``clients`` the most connections to it that the sandbox may have at one time.
    ``sandbox`` is the name given to the compositor, where it wants one.
    """

    number: _Count
    sandbox: str
    compositor: str
    clients: Annotated[int, msgspec.Meta(ge=1, le=limits.WAYLAND_CLIENTS_PER_SANDBOX)]


class ForkAcceptor(TypedMessage, frozen=True, tag="fork-acceptor"):
    """Fork an acceptor.

    Descriptors: the file for its standard error; for each listening socket the
    socket, and the acceptor's end of its channel.  ``direct`` says of each whether
    the worker gets its connections as they are.
    """

    number: _Count
    direct: Annotated[list[bool], msgspec.Meta(max_length=ENTRANCES)]


class ForkPump(TypedMessage, frozen=True, tag="fork-pump"):
    """Fork a pump.

    Descriptors: its socket to the broker, the file for its standard error.
    """

    number: _Count


class ForkSession(TypedMessage, frozen=True, tag="fork-session"):
    """Fork a child that carries out one order with the user's rights (``ipc.session``).

    Descriptors: its socket to the viewer, the file for its standard error.  The starter
    alone forks these.
    """

    number: _Count


Order: TypeAlias = ForkWorker | ForkKeeper | ForkAcceptor | ForkPump | ForkSession

# -- answers -----------------------------------------------------------------------


class Forked(TypedMessage, frozen=True, tag="forked"):
    """The child of that order runs; its pidfd and its pipe are attached."""

    number: _Count
    pid: _Count
    jail: Jail | None = None


class ForkFailed(TypedMessage, frozen=True, tag="fork-failed"):
    """There is no child: fork(2) failed, or its jail cannot be built (``hint``)."""

    number: _Count
    reason: _Text
    hint: _Text = ""


Answer: TypeAlias = Forked | ForkFailed

# -- a worker's jailed half and its keeper -----------------------------------------
# A byte or two in one packet, so that the keeper parses nothing.

CONNECT = b"c"
"""Worker: connect to the compositor.  Answer: CONNECTED, a byte that is the
connection's number, and the socket; or REFUSED and a reason."""
RELEASE = b"r"
"""Worker: the connection of the number in the next byte is over; the keeper
ends it, whether or not that is true."""
CONNECTED = b"+"
REFUSED = b"-"

# -- codec -------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()


def encode(message: Order | Answer) -> bytes:
    """Return the packet of a message.  Raises InternalError if it is too long."""
    data = _encoder.encode(message)
    if len(data) > MESSAGE_BYTES:
        raise InternalError(f"a fork server's message is too long: {len(data)} bytes")
    return data


decode_order: Reader[Order] = reader(
    msgspec.msgpack.Decoder(Order), "invalid order to fork", InternalError
)
"""Return the order of a packet."""

decode_answer: Reader[Answer] = reader(
    msgspec.msgpack.Decoder(Answer), "invalid answer of a fork server", InternalError
)
"""Return the answer of a packet."""
