"""What of a broker answers a call of the control socket: a part of it, or a process.

A name that is not in the table is answered with the protocol's own error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from broker import __version__
from broker.core.errors import InternalError, RefusedError, VitrailError
from broker.core.escape import printable
from broker.core.stderr_log import log_exception
from broker.ipc.control import varlink
from broker.ipc.control.api import INTERFACE, Nothing
from broker.ipc.control.methods import TABLE, Exchange, Method, Owner, row_of, served_by
from broker.ipc.control.varlink import SERVICE, Call, VarlinkError, VarlinkReply

Forward = Callable[[Call, Exchange[Any]], Awaitable[VarlinkReply]]
"""Has another process answer a call.  Its items are emitted as they came."""

NO_FORWARDS: Mapping[Owner, Forward] = MappingProxyType({})


class Dispatcher:
    """Answers the calls of a control socket, or of the process that has it."""

    def __init__(
        self,
        role: str,
        parts: Iterable[object],
        *,
        forwards: Mapping[Owner, Forward] = NO_FORWARDS,
        owners: Container[Owner] = frozenset(Owner),
        refuse: Callable[[str], None] = lambda _method: None,
    ) -> None:
        """Take the handlers of ``parts``.

        ``owners`` are the processes whose methods are answered here; ``refuse`` raises
        RefusedError for a method that may not be called now.  Raises
        InternalError unless each of these has one handler, or an owner to forward it
        to, or is one that the role lacks.
        """
        self._role = role
        self._owners = owners
        self._refuse = refuse
        self._forwards = forwards
        self._handlers: dict[str, tuple[object, str]] = {}
        for part in parts:
            for name, attribute in served_by(part).items():
                if name in self._handlers:
                    raise InternalError(f"{name} has two handlers")
                self._handlers[name] = (part, attribute)
        for name, row in TABLE.items():
            if row.owner not in owners:
                continue
            lacking = row.absence(role) is not None
            handled = name in self._handlers
            if lacking and handled:
                raise InternalError(f"a {role} does not answer {name}, and a part does")
            if not (lacking or handled or row.owner in forwards):
                raise InternalError(f"nothing of this {role} answers {name}")

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
        row = row_of(call.method)
        if row is None:
            return VarlinkReply(varlink.raw(_service(call)))
        # guard: a process answers its own methods only
        if row.owner not in self._owners:
            raise InternalError(f"{row.name} is a method of the {row.owner.value}")
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
        self, row: Method[Any, Any], call: Call, exchange: Exchange[Any]
    ) -> msgspec.Struct:
        request = varlink.decode_parameters(call.parameters, row.request)
        part, attribute = self._handlers[row.name]
        answer: msgspec.Struct = await getattr(part, attribute)(exchange, request)
        return answer


def _explain(problem: Exception) -> VitrailError:
    """Return the client's error; an internal error also goes to the log."""
    while isinstance(problem, ExceptionGroup) and len(problem.exceptions) == 1:
        problem = problem.exceptions[0]
    if isinstance(problem, VitrailError) and not isinstance(problem, InternalError):
        return problem
    log_exception(problem)
    return InternalError(
        f"a mistake in the broker: {printable(str(problem) or repr(problem))}",
        hint="the broker's log has the details; please report it",
    )


# -- the protocol's own interface --------------------------------------------------------


class Info(msgspec.Struct, frozen=True):
    """Answer of ``org.varlink.service.GetInfo``."""

    vendor: str
    product: str
    version: str
    url: str
    interfaces: list[str]


class _DescriptionRequest(msgspec.Struct, frozen=True):
    interface: str


class _Description(msgspec.Struct, frozen=True):
    description: str


def interface_description(interface: str = INTERFACE) -> str:
    """Return the text of ``io.vitrail.Broker.varlink``, or of another interface."""
    # Late: it brings tempfile and random with it, and few clients ask for it.
    from importlib import resources

    data = resources.files("broker") / "data" / f"{interface}.varlink"
    return data.read_text(encoding="utf-8")


def _service(call: Call) -> msgspec.Struct:
    if call.method == f"{SERVICE}.GetInfo":
        varlink.decode_parameters(call.parameters, Nothing)
        return Info("Vitrail", "Vitrail broker", __version__, "", [SERVICE, INTERFACE])
    if call.method == f"{SERVICE}.GetInterfaceDescription":
        wanted = varlink.decode_parameters(call.parameters, _DescriptionRequest)
        if wanted.interface not in {INTERFACE, SERVICE}:
            raise VarlinkError("InterfaceNotFound", interface=wanted.interface)
        return _Description(interface_description(wanted.interface))
    interface, _, _word = call.method.rpartition(".")
    if interface in {SERVICE, INTERFACE}:
        raise VarlinkError("MethodNotFound", method=call.method)
    raise VarlinkError("InterfaceNotFound", interface=interface)
