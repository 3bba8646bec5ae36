"""Messages of the supervisor with its template and with keepers.

One msgpack value in one packet of a SEQPACKET socket (``ipc.fdpass``):

* the **template** forks keepers; it never sees a guest's byte;
* a **keeper** stays in the person's session, makes a worker's process and its
  connections to the compositor; it never sees a guest's byte either.

So both are trusted, and a message that is not one of these is a mistake of ours.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from broker.core import limits
from broker.ipc.worker import decode_trusted, pack

_Text = Annotated[str, msgspec.Meta(max_length=4000)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Message(
    msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True
):
    pass


# -- keeper to supervisor --------------------------------------------------------


class KeeperReady(_Message, frozen=True, tag="kept"):
    """The worker's process exists; its pidfd comes with this."""

    pid: _Count


class KeepFailed(_Message, frozen=True, tag="keep-failed"):
    """The jail could not be built; the keeper exits."""

    message: _Text
    hint: _Text


class InnerEnded(_Message, frozen=True, tag="inner-ended"):
    """The worker's process ended: exit code, or minus the signal's number."""

    code: int


FromKeeper: TypeAlias = KeeperReady | KeepFailed | InnerEnded


# -- supervisor and template -------------------------------------------------------


class Fork(_Message, frozen=True, tag="fork"):
    """Fork a keeper.

    Three descriptors come with it: the keeper's and the worker's end of their
    channels to the supervisor, and the listening Wayland socket.
    ``compositor`` is the path of the compositor's socket, ``clients`` the most
    connections to it that the sandbox may have at one time.  ``sandbox`` is
    the name given to the compositor, where it wants one.
    """

    number: _Count
    sandbox: str
    compositor: str
    allow_unjailed: bool
    clients: Annotated[
        int, msgspec.Meta(ge=1, le=limits.WAYLAND_CLIENTS_PER_SANDBOX)
    ] = limits.WAYLAND_CLIENTS_PER_SANDBOX


class TemplateReady(_Message, frozen=True, tag="warm"):
    """The template has imported everything and takes orders."""


class WorkerForked(_Message, frozen=True, tag="forked"):
    """The keeper of that order runs; its pidfd comes with this."""

    number: _Count
    pid: _Count


class ForkFailed(_Message, frozen=True, tag="fork-failed"):
    """fork(2) failed."""

    number: _Count
    reason: _Text


class KeeperEnded(_Message, frozen=True, tag="keeper-ended"):
    """The keeper of that order ended: exit code, or minus the signal's number."""

    number: _Count
    code: int


FromTemplate: TypeAlias = TemplateReady | WorkerForked | ForkFailed | KeeperEnded

# -- codec -------------------------------------------------------------------------

_from_keeper: msgspec.msgpack.Decoder[FromKeeper] = msgspec.msgpack.Decoder(FromKeeper)
_fork: msgspec.msgpack.Decoder[Fork] = msgspec.msgpack.Decoder(Fork)
_from_template: msgspec.msgpack.Decoder[FromTemplate] = msgspec.msgpack.Decoder(
    FromTemplate
)


def encode(message: FromKeeper | Fork | FromTemplate) -> bytes:
    """Return the packet of a message."""
    return pack(message)


def decode_from_keeper(data: bytes) -> FromKeeper:
    """Return the keeper's message.  Raises InternalError if it is none."""
    return decode_trusted(_from_keeper, data)


def decode_fork(data: bytes) -> Fork:
    """Return the order to fork.  Raises InternalError if it is none."""
    return decode_trusted(_fork, data)


def decode_from_template(data: bytes) -> FromTemplate:
    """Return the template's message.  Raises InternalError if it is none."""
    return decode_trusted(_from_template, data)
