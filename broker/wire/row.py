"""A row: one call between two of our processes, as data.

A module of ``ipc`` lists the rows of one boundary.  The caller names a row in
``peer.Peer.call``; the process that serves it marks a method with ``serves``.  Who may
call, which permit is needed and how many descriptors travel is read here by both ends,
by the tests and by ``docs/messages.md``.

Every process of the broker imports this.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import msgspec

from broker.core.errors import InternalError

if TYPE_CHECKING:
    from broker.wire.exchange import ServedCall

_Q = TypeVar("_Q", bound=msgspec.Struct)
_A = TypeVar("_A", bound=msgspec.Struct)
_Part = TypeVar("_Part")


class ProcessKind(enum.StrEnum):
    """The processes that call each other; the value names one in errors."""

    AUTHORITY = "authority"
    HOST = "host"
    VIEWER = "viewer"
    STARTER = "starter"
    SESSION_CHILD = "session child"
    FORK_SERVER = "fork server"
    PUMP = "pump"
    ACCEPTOR = "acceptor"
    WORKER = "worker"
    KEEPER = "keeper"
    PROMPT_AGENT = "prompt agent"
    DEVICES_SERVICE = "device service"


Descriptors: TypeAlias = int | range
"""How many descriptors come with a message: exactly so many, or one of these counts."""


class Empty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request without parameters, or an answer without a result."""


@dataclass(frozen=True)
class Absence:
    """Why the broker of a role does not serve a row when host and viewer are two machines."""

    role: str
    message: str
    hint: str
    """May name fields of the request: ``{request.record}``."""


@dataclass(frozen=True)
class NeededPermit:
    """The permit that a call must bring, signed by the authority (``ipc.session.warrant``)."""

    services: frozenset[str]
    """The permit is for one of these."""
    service_field: str = ""
    """Or for the service that this field of the request names; empty: no field does."""
    for_desktop: bool = True
    """The permit's target has to be the user's desktop."""
    precedes_uses: bool = False
    """A permit that needs a further one for each use is enough."""


@dataclass(frozen=True, eq=False)
class Row(Generic[_Q, _A]):
    """One call between two processes.

    A row without ``permit`` that has an effect says in the docstring of its request why
    it needs none.
    """

    name: str
    request: type[_Q]
    answer: type[_A] | None
    """The type of the answer; None: a notice, which has no answer."""
    of: frozenset[ProcessKind]
    """The processes that serve it."""
    by: frozenset[ProcessKind]
    """The processes that may call it."""
    permit: NeededPermit | None = field(default=None, kw_only=True)
    calls: frozenset[str] = field(default=frozenset(), kw_only=True)
    """Methods of the control socket: the user must have called one, which caused this."""
    takes: Descriptors = field(default=0, kw_only=True)
    """Descriptors of the request."""
    gives: Descriptors = field(default=0, kw_only=True)
    """Descriptors of the answer."""
    item: type[msgspec.Struct] | None = field(default=None, kw_only=True)
    """Items that may precede the answer; None: there are none."""
    paced: bool = field(default=False, kw_only=True)
    """Whether the next item waits until the caller has taken the one before."""
    at_once: int = field(default=0, kw_only=True)
    """Most calls at one time; 0: it shares the limit of its connection."""
    seconds: float = field(default=0.0, kw_only=True)
    """Seconds until the caller gives up; 0: it waits as long as a machine or a user takes."""
    droppable: bool = field(default=False, kw_only=True)
    """Whether the call is given up when its caller waits no more; else it is finished."""
    ordered: bool = field(default=False, kw_only=True)
    """Whether both ends note it in the order of messages (``ledger.Ledger``)."""
    absent: tuple[Absence, ...] = field(default=(), kw_only=True)
    """What a setup of two machines lacks."""

    def absence(self, role: str) -> Absence | None:
        """Return why a role does not serve this row; None where it does."""
        return next((gap for gap in self.absent if gap.role == role), None)


AnyRow: TypeAlias = Row[Any, Any]


def fits(count: int, allowed: Descriptors) -> bool:
    """Return whether so many descriptors may come."""
    return count in allowed if isinstance(allowed, range) else count == allowed


def most_descriptors(allowed: Descriptors) -> int:
    """Return the largest number of descriptors that may come."""
    return max(allowed, default=0) if isinstance(allowed, range) else allowed


def rows_of(names: Mapping[str, object]) -> Mapping[str, AnyRow]:
    """Return the rows of a module (``vars(module)``), by their names.

    Raises InternalError if two rows have one name.
    """
    rows: dict[str, AnyRow] = {}
    for row in names.values():
        if isinstance(row, Row) and rows.setdefault(row.name, row) is not row:
            raise InternalError(f"two rows have the name {row.name}")
    return MappingProxyType(rows)


# -- handlers --------------------------------------------------------------------------

Handler: TypeAlias = "Callable[[_Part, ServedCall[_A], _Q], Awaitable[_A]]"
_H = TypeVar("_H", bound=Callable[..., Any])
_ROW = "_vitrail_row"


def serves(row: Row[_Q, _A]) -> Callable[[_H], _H]:
    """Mark a method ``(self, exchange, request)`` as the handler of a row.

    A method that is no ``async def`` and returns an awaitable runs up to that as its
    request is read, so before later messages of the caller.

    The handler returns the answer, or None for ``Empty``; in a session child, which has
    no event loop, it answers by its exchange.  It may raise VitrailError, which is the
    caller's error; every other exception reaches the caller as an internal error, and the
    log.
    """

    def mark(handler: _H) -> _H:
        setattr(handler, _ROW, row)
        return handler

    return mark


def row_served_by(handler: object) -> AnyRow | None:
    """Return the row of a handler; None: it is not marked by ``serves``."""
    row = getattr(handler, _ROW, None)
    return row if isinstance(row, Row) else None


def handlers(
    rows: Iterable[AnyRow], parts: Iterable[object]
) -> dict[str, Callable[..., Awaitable[Any]]]:
    """Return the handler of each row, by the row's name.

    Raises InternalError unless each row has exactly one in ``parts``.
    """
    by_name: dict[str, Callable[..., Awaitable[Any]]] = {}
    for part in parts:
        for attribute in dir(type(part)):
            row = row_served_by(getattr(type(part), attribute))
            if row is None:
                continue
            # guard: a row has one handler
            if row.name in by_name:
                raise InternalError(f"the row {row.name} has two handlers")
            by_name[row.name] = getattr(part, attribute)
    names = {row.name for row in rows}
    # guard: a process starts with a handler for each row that it serves
    if missing := names - by_name.keys():
        raise InternalError(f"no handler serves {', '.join(sorted(missing))}")
    return {name: handler for name, handler in by_name.items() if name in names}
