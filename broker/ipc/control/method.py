"""What a row of the table of methods is, and how a process marks its handler.

brokerctl calls by the row; authority, host and viewer serve by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec

from broker.ipc.control.types.base import Caller, Emit
from broker.wire.row import Absence

_Request = TypeVar("_Request", bound=msgspec.Struct)
_Answer = TypeVar("_Answer", bound=msgspec.Struct)
_Part = TypeVar("_Part")


class Owner(Enum):
    """The process that answers a method."""

    AUTHORITY = "authority"
    HOST = "host"
    VIEWER = "viewer"


@dataclass(frozen=True)
class Method(Generic[_Request, _Answer]):
    """A row of the table."""

    name: str
    """Without the interface."""
    request: type[_Request]
    answer: type[_Answer]
    """Of the answer, and of each item that precedes it."""
    owner: Owner
    summary: str
    """For the interface description."""
    absent: tuple[Absence, ...] = field(default=(), kw_only=True)
    waits: bool = field(default=False, kw_only=True)
    """Whether it may take as long as a machine or a user; else a client gives up."""
    paced: bool = field(default=False, kw_only=True)
    """Whether a client may take its items as slowly as it likes: they come as fast
    as it reads, and end when it hangs up."""
    dropped: bool = field(default=False, kw_only=True)
    """Whether the call is cancelled when its client disconnects, because a sandbox
    could prolong it."""

    def absence(self, role: str) -> Absence | None:
        """Return why a role does not answer this method; None where it does."""
        return next((one for one in self.absent if one.role == role), None)


@dataclass(frozen=True)
class Exchange(Generic[_Answer]):
    """One call in progress: the caller, and the receiver of items."""

    caller: Caller
    more: bool
    """Whether the client takes items before the answer."""
    emit: Emit[_Answer]
    """Sends an item; does nothing unless ``more``."""
    warrant: bytes = b""
    """The authority's, where it passed the call on (``ipc.session.warrant``)."""


Handler = Callable[[_Part, Exchange[_Answer], _Request], Awaitable[_Answer]]
_ROW = "_vitrail_control_row"


def serves(
    row: Method[_Request, _Answer],
) -> Callable[[Handler[_Part, _Answer, _Request]], Handler[_Part, _Answer, _Request]]:
    """Mark the handler of a method in its owner: authority, viewer or host.

    A handler may raise RefusedError (also NotFoundError), SetupError, UpstreamError or
    PeerError, which reach the client as they are.  A call with ``more`` is
    cancelled when its client goes away, a ``dropped`` row's soon after; others finish.
    """

    def mark(
        handler: Handler[_Part, _Answer, _Request],
    ) -> Handler[_Part, _Answer, _Request]:
        setattr(handler, _ROW, row)
        return handler

    return mark


def served_by(part: object) -> dict[str, str]:
    """Return the methods of a part: the name of each row with its handler's name."""
    found: dict[str, str] = {}
    for attribute in dir(type(part)):
        row = getattr(getattr(type(part), attribute), _ROW, None)
        if row is not None:
            found[row.name] = attribute
    return found


AnyMethod = Method[Any, Any]


def table(names: Mapping[str, object]) -> Mapping[str, AnyMethod]:
    """Return the rows of a module's names, by the names of their methods."""
    rows = [row for row in names.values() if isinstance(row, Method)]
    return MappingProxyType({row.name: row for row in rows})
