"""``brokerctl forward``: a port of the user's loopback leads to a sandbox's port.

Each forward is one permit, by a rule for ``vitrail.Tcp`` with the source ``@adminvm``;
each connection is one stream, which the pump moves and no process of Vitrail reads.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.permit import Permit, Request
from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.lease import Opening
from broker.core.limits import network as limits
from broker.core.prompt_words import VIEWER
from broker.core.services import TCP
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.host_and_viewer.stream_events import StreamEvents
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.guest.file_requests import GuestCall
from broker.viewer.authority.interface import Permits
from broker.viewer.calls.box_calls import is_box, require_server
from broker.viewer.calls.calls import SandboxCalls, both_again
from broker.viewer.calls.tcp_ports import ListenedPort, listening, take_port
from broker.viewer.orders.session_orders import UserSession

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest

_FIRST_STREAM = 1 << 33
"""Numbers of these streams in the log, apart from those of sandboxes."""
_CALLER = "desktop"
"""The caller's name in the sandbox's log."""


@dataclass(frozen=True)
class _Forward:
    """A forward that is permitted."""

    guest: Guest
    port: int
    permit: Permit
    emit: api.Emit[api.ForwardItem]


class PortForwards:
    """The forwards of one viewer."""

    def __init__(
        self,
        *,
        decider: Permits,
        log: EventLog,
        calls: SandboxCalls,
        pump: PumpSupervisor,
        session: UserSession,
        named: Callable[[str], Guest],
    ) -> None:
        self._decider = decider
        self._events = StreamEvents(log)
        self._calls = calls
        self._pump = pump
        self._session = session
        self._named = named
        self._numbers = itertools.count(_FIRST_STREAM)

    @serves(methods.FORWARD)
    async def forward(
        self, exchange: Exchange[api.ForwardItem], request: api.ForwardRequest
    ) -> api.ForwardItem:
        """Forward a port until the client hangs up or the sandbox ends.

        Raises RefusedError where no rule allows it, or the port is taken.
        """
        if not exchange.more:
            raise RefusedError("a forward requires a call with 'more'")
        port = take_port(str(request.port))
        guest = self._named(request.sandbox)
        if not 0 <= request.local <= 65535:
            raise RefusedError(f"{request.local} is not a port number")
        asked = Request(
            lease=guest.lease,
            service=TCP,
            argument=f"+{port}",
            source=VIEWER,
            target=guest.lease.sandbox,
            settled=True,
        )
        # First: the user's answer to a question may take longer than a warrant is good.
        async with (
            listening(self._session, exchange.warrant, request.local) as own,
            self._decider.permit(asked) as permit,
        ):
            if is_box(guest):
                await require_server(guest)
            await exchange.emit(
                api.ForwardItem(
                    sandbox=guest.lease.sandbox, address=own.address, local=own.number
                )
            )
            await self._serve(_Forward(guest, port, permit, exchange.emit), own)
        raise RefusedError("the forward was closed")

    async def _serve(self, forward: _Forward, own: ListenedPort) -> None:
        """Accept connections to the forwarded port, and carry each."""
        # guard: connections to a forwarded port are bounded
        places = trio.CapacityLimiter(limits.FORWARDED)
        async with trio.open_nursery() as nursery:
            while True:
                await places.acquire_on_behalf_of(place := object())
                there, conn = await own.accept()

                async def one(
                    there: int = there,
                    conn: socket.socket | None = conn,
                    place: object = place,
                ) -> None:
                    """Serve one forwarded connection and free its place."""
                    with conn or nullcontext():
                        await self._connected(forward, there, conn)
                    places.release_on_behalf_of(place)

                nursery.start_soon(one)

    async def _connected(
        self, forward: _Forward, there: int, conn: socket.socket | None
    ) -> None:
        """Carry one connection from a port to its end; its failure ends no other."""
        guest = forward.guest
        peer = f"port {there} of this machine"
        opening = Opening(guest.lease, TCP, next(self._numbers), peer)
        try:
            if conn is None:
                await self._events.refused(opening, "another user connected")
                return
            async with self._events.carry(opening, "pump") as outcome:
                asked = GuestCall(_CALLER, TCP, str(forward.port))
                async with self._calls.served(guest, asked) as far:
                    ours, theirs = both_again(conn, far)
                    most = forward.permit.max_size or 0
                    end = await self._pump.relay(
                        ours, theirs, name=str(opening.stream), max_bytes=most
                    )
                    outcome.reason = end.describe()
                    outcome.counts = end.bytes_ba, end.bytes_ab
            if not end.bytes_ba:
                raise UpstreamError(
                    f"port {forward.port} of {guest.lease.sandbox} sent nothing",
                    hint=f"check that a program in it listens on 127.0.0.1:{forward.port}",
                )
        # guard: a forwarded connection without descriptors ends no other
        except (VitrailError, OSError) as error:
            hint = f"; {error.hint}" if isinstance(error, VitrailError) else ""
            failed = printable(f"{error}{hint}".removesuffix("; "), 300)
            await forward.emit(api.ForwardItem(failed=failed))
