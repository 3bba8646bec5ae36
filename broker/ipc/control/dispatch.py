"""Pass a call of the control socket to the part or process that owns its method.

The authority, the host and the viewer run it, each for its own methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from broker.core.errors import InternalError, RefusedError, VitrailError, sole
from broker.core.escape import printable
from broker.core.stderr_log import log_exception
from broker.ipc.control import varlink
from broker.ipc.control.method import AnyMethod, Exchange, Owner, served_by
from broker.ipc.control.types.base import INTERFACE
from broker.ipc.control.varlink import Call, VarlinkError, VarlinkReply

Forward = Callable[[Call, Exchange[Any]], Awaitable[VarlinkReply]]
"""Has another process answer a call.  Its items are emitted as they came."""

NO_FORWARDS: Mapping[Owner, Forward] = MappingProxyType({})


def _not_ours(call: Call) -> msgspec.Struct:
    # guard: a process answers its own methods only
    raise InternalError(f"{call.method} is not a method of this process")


class Dispatcher:
    """Answers the calls of a control socket, or of the process that has it."""

    def __init__(
        self,
        role: str,
        parts: Iterable[object],
        table: Mapping[str, AnyMethod],
        *,
        forwards: Mapping[Owner, Forward] = NO_FORWARDS,
        refuse: Callable[[str], None] = lambda _method: None,
        other: Callable[[Call], msgspec.Struct] = _not_ours,
    ) -> None:
        """Answer the methods of ``table``, by the handlers of ``parts``.

        ``refuse`` raises RefusedError for a method that may not be called now;
        ``other`` answers calls of methods that the table lacks.  Raises InternalError
        unless each of the table has one handler, or an owner to forward it to, or is
        a method that the role lacks.
        """
        self._role = role
        self._table = table
        self._refuse = refuse
        self._other = other
        self._forwards = forwards
        self._handlers: dict[str, tuple[object, str]] = {}
        for part in parts:
            for name, attribute in served_by(part).items():
                if name in self._handlers:
                    raise InternalError(f"{name} has two handlers")
                self._handlers[name] = (part, attribute)
        for name, row in table.items():
            lacking = row.absence(role) is not None
            handled = name in self._handlers
            if lacking and handled:
                raise InternalError(f"a {role} does not answer {name}, but a part does")
            if not (lacking or handled or row.owner in forwards):
                raise InternalError(f"no part of this {role} answers {name}")

    async def reply(self, call: Call, exchange: Exchange[Any]) -> VarlinkReply:
        """Answer a call; each error but a cancellation is a reply."""
        try:
            return await self.answer(call, exchange)
        except VarlinkError as problem:
            return varlink.error_reply(problem)
        except Exception as problem:  # noqa: BLE001 -- the one door: a mistake in one method must not end every sandbox
            return varlink.error_reply(_explain(problem))

    async def answer(self, call: Call, exchange: Exchange[Any]) -> VarlinkReply:
        """Answer a call.  Raises VarlinkError, and what its handler raises."""
        if call.upgrade:
            raise VarlinkError("InvalidParameter", parameter="upgrade")
        interface, _, name = call.method.rpartition(".")
        row = self._table.get(name) if interface == INTERFACE else None
        if row is None:
            return VarlinkReply(varlink.raw(self._other(call)))
        absence = row.absence(self._role)
        if absence is not None:
            request = varlink.decode_parameters(call.parameters, row.request)
            raise RefusedError(
                absence.message, hint=absence.hint.format(request=request)
            )
        self._refuse(row.name)
        if row.name not in self._handlers:
            return await self._forwards[row.owner](call, exchange)
        return VarlinkReply(varlink.raw(await self._handle(row, call, exchange)))

    async def _handle(
        self, row: AnyMethod, call: Call, exchange: Exchange[Any]
    ) -> msgspec.Struct:
        """Decode a call's parameters and run its handler in this process.

        Return the handler's answer.
        """
        request = varlink.decode_parameters(call.parameters, row.request)
        part, attribute = self._handlers[row.name]
        answer: msgspec.Struct = await getattr(part, attribute)(exchange, request)
        return answer


def _explain(problem: Exception) -> VitrailError:
    """Return the client's error; an internal error also goes to the log."""
    problem = sole(problem)
    if isinstance(problem, VitrailError) and not isinstance(problem, InternalError):
        return problem
    log_exception(problem)
    return InternalError(
        f"internal error in the broker: {printable(str(problem) or repr(problem))}",
        hint="see the broker's log for details, and report the error",
    )
