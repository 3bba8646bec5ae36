"""Calls of a broker to its fork servers.

A fork server is a process that has imported all that its children need, so that
each child costs a fork.  It has one thread and never reads a sandbox's byte.
There are three: of helpers (starter, pumps, keepers, acceptors), of jailed halves of
workers, and the starter, of the viewer's orders with the user's rights.

The descriptors of a call are the child's.  Those of the answer are its pidfd and the
read end of a pipe, into which the server writes how the child ended (``END``).  A pipe
that ends without that says that the server died first.  The error of a call says why
there is no child: fork(2) failed (UpstreamError), or its jail cannot be built
(SetupError).

Orders come from the host, the viewer or a session child; the fork server and its children
have the other ends.
"""

from __future__ import annotations

import enum
import struct
from typing import Annotated, Final

import msgspec

from broker.core import limits
from broker.wire.row import ProcessKind, Row, rows_of

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


# -- calls -------------------------------------------------------------------------


class ForkMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of requests to fork, and of their answer."""


class ForkWorker(ForkMessage, frozen=True):
    """Fork the jailed half of a worker.

    Descriptors: its socket to the broker, the listening socket of the sandbox's
    Wayland clients, its socket to the keeper, its pipe to the broker.
    """

    allow_unjailed: bool


class ForkKeeper(ForkMessage, frozen=True):
    """Fork a keeper.

    Descriptors: its socket to the broker, its socket to the jailed half, the
    jailed half's pidfd.  ``compositor`` is the path of the compositor's socket,
    ``clients`` the most connections to it that the sandbox may have at one time.
    ``sandbox`` is the name given to the compositor, where it wants one.
    """

    sandbox: str
    compositor: str
    clients: Annotated[int, msgspec.Meta(ge=1, le=limits.WAYLAND_CLIENTS_PER_SANDBOX)]


class ForkAcceptor(ForkMessage, frozen=True):
    """Fork an acceptor.

    Descriptors: the file for its standard error; for each listening socket the
    socket, and the acceptor's end of its channel.  ``direct`` says of each whether
    the worker gets its connections as they are.
    """

    direct: Annotated[list[bool], msgspec.Meta(max_length=ENTRANCES)]


class ForkPump(ForkMessage, frozen=True):
    """Fork a pump.

    Descriptors: its socket to the broker, the file for its standard error.
    """


class ForkSession(ForkMessage, frozen=True):
    """Fork a child that carries out one order with the user's rights (``ipc.session``).

    Descriptors: its socket to the viewer, the file for its standard error.  The starter
    alone forks these.
    """


class Forked(ForkMessage, frozen=True):
    """The child runs; its pidfd and its pipe are attached."""

    pid: _Count
    jail: Jail | None = None


CLIENT: Final = ProcessKind.VIEWER
"""The caller, as both ends name it: a server does not know which of its sockets are the
host's, and both call the same rows."""
_SERVER: Final = frozenset({ProcessKind.FORK_SERVER})
_CLIENTS: Final = frozenset({ProcessKind.HOST, ProcessKind.VIEWER})

FORK_WORKER: Final = Row(
    "ForkWorker", ForkWorker, Forked, _SERVER, _CLIENTS, takes=4, gives=2
)
FORK_KEEPER: Final = Row(
    "ForkKeeper", ForkKeeper, Forked, _SERVER, _CLIENTS, takes=3, gives=2
)
FORK_ACCEPTOR: Final = Row(
    "ForkAcceptor",
    ForkAcceptor,
    Forked,
    _SERVER,
    _CLIENTS,
    takes=range(3, DESCRIPTORS + 1, 2),
    gives=2,
)
FORK_PUMP: Final = Row(
    "ForkPump", ForkPump, Forked, _SERVER, _CLIENTS, takes=2, gives=2
)
FORK_SESSION: Final = Row(
    "ForkSession", ForkSession, Forked, _SERVER, _CLIENTS, takes=2, gives=2
)
FORK_ROWS: Final = rows_of(globals())
