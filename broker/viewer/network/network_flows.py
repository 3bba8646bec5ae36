"""Flows of sandboxes with ``network = "rules"``: asked about, held, cut, listed.

The sandbox's frame filter says where a flow is to go; each destination is one permit,
live for as long as the filter needs it, so a changed rule ends its flows.  No packet is
seen here.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from broker.authority.audit import event_log
from broker.authority.permit import Request
from broker.core.errors import PeerError, RefusedError, VitrailError
from broker.core.framing import FrameReader
from broker.core.lease import Lease, Opening
from broker.core.limits import network as limits
from broker.core.names import LeaseId
from broker.core.streams import network_flows as m
from broker.ipc.audit import schema
from broker.ipc.control import api
from broker.ipc.host_viewer import TaskStatus
from broker.viewer.authority.interface import Permits
from policy.destinations import LOOKUP, NET, NETWORK, destination_of
from policy.records.model import NetworkLimits, Record

_PROTOCOLS = frozenset({"tcp", "udp"})
_READ_BYTES = 65536


@dataclass(eq=False)
class _Place:
    asked: m.AskFlow
    where: str = ""
    released: trio.Event = field(default_factory=trio.Event)


@dataclass(eq=False)
class FlowRow:
    """A flow that is open."""

    flow: int
    host: str
    address: str
    protocol: str
    port: int
    rule: str
    since: float
    sent: int = 0
    received: int = 0
    """Bytes of its packets, as the filter counts them."""
    rates: tuple[float, float] = (0.0, 0.0)
    """Bytes a second from the sandbox and to it, between the last two reports."""
    reported: float = 0.0

    def moved(self, sent: int, received: int, now: float) -> None:
        """Update the flow's byte counts and rates from a report of its filter."""
        span = now - self.reported
        if not limits.REPORT_SECONDS <= span <= 2 * limits.REPORT_SECONDS:
            span = limits.REPORT_SECONDS  # it was idle before
        self.rates = ((sent - self.sent) / span, (received - self.received) / span)
        self.sent, self.received, self.reported = sent, received, now

    def rates_at(self, now: float) -> tuple[float, float]:
        """Return the rates; a flow that is not in a report has moved nothing."""
        if now - self.reported > 2 * limits.REPORT_SECONDS:
            return (0.0, 0.0)
        return self.rates


class NetworkFlows:
    """All flows of a viewer's sandboxes."""

    def __init__(
        self,
        *,
        decider: Permits,
        log: event_log.EventLog,
        record: Callable[[Lease], Record | None],
    ) -> None:
        self._decider = decider
        self._log = log
        self._record = record
        self._open: dict[LeaseId, dict[int, FlowRow]] = {}
        self._filters: dict[LeaseId, _FlowguardConnection] = {}
        self._taken: set[LeaseId] = set()

    @contextmanager
    def place(self, lease: LeaseId) -> Iterator[None]:
        """Reserve the place of a sandbox's filter before the filter may send requests.

        Raises RefusedError where another one has it.
        """
        # guard: a sandbox has one frame filter
        if lease in self._taken:
            raise RefusedError("this sandbox already has a frame filter")
        self._taken.add(lease)
        try:
            yield
        finally:
            self._taken.remove(lease)

    def follow_records(self) -> None:
        """Records have changed: let the filters' tasks tell them their limits."""
        for one in self._filters.values():
            one.record_changed.set()

    def traffic(self, lease: LeaseId) -> api.NetworkTraffic | None:
        """Return a sandbox's sums of flows; None if it has no network filter."""
        rows = self._open.get(lease)
        if rows is None:
            return None
        now = trio.current_time()
        rates = [row.rates_at(now) for row in rows.values()]
        return api.NetworkTraffic(
            flows=len(rows),
            rate_from_sandbox=sum(rate for rate, _ in rates),
            rate_to_sandbox=sum(rate for _, rate in rates),
        )

    def rows(self, lease: LeaseId) -> list[FlowRow]:
        """The open flows of a sandbox, oldest first."""
        return list(self._open.get(lease, {}).values())

    async def carry(
        self, opening: Opening, conn: socket.socket, *, task_status: TaskStatus
    ) -> None:
        """Serve one sandbox's network filter until it ends; owns ``conn``."""
        with conn:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(conn))
            task_status.started()
            one = _FlowguardConnection(
                opening, stream, self._decider, self._log, self._record
            )
            self._open[opening.lease.id] = one.flows
            self._filters[opening.lease.id] = one
            try:
                await one.run()
            except* PeerError as errors:
                # The filter was taken over: its flows end with it.
                event = schema.StreamRefused(
                    **event_log.of_stream(opening),
                    outcome="refused",
                    reason=str(errors.exceptions[0]),
                )
                await self._log.refused(event)
            finally:
                self._open.pop(opening.lease.id, None)
                self._filters.pop(opening.lease.id, None)


class _FlowSubject(event_log.StreamSubject):
    """The fields of an event about a flow."""

    argument: str
    detail: dict[str, schema.Scalar]


class _FlowguardConnection:
    """The viewer's connection with one sandbox's flowguard."""

    def __init__(
        self,
        opening: Opening,
        stream: trio.SocketStream,
        decider: Permits,
        log: event_log.EventLog,
        record: Callable[[Lease], Record | None],
    ) -> None:
        self._opening = opening
        self._lease: Lease = opening.lease
        self._record = record
        self.record_changed = trio.Event()
        self._stream = stream
        self._decider = decider
        self._log = log
        self._places: dict[int, _Place] = {}
        self._last = 0
        self._given = NetworkLimits()
        self._uncounted = 0
        self._sending = trio.Lock()
        self.flows: dict[int, FlowRow] = {}

    async def _limit(self) -> None:
        """Send the record's limits to the network filter, if they have changed."""
        # A sandbox without a record keeps its limits.
        record = self._record(self._lease)
        if record is None or (given := record.viewer.network) == self._given:
            return
        self._given = given
        await self._send(
            m.FlowLimits(
                flows=given.flows,
                new_flows=given.new_flows,
                lookups=given.lookups,
                send_rate=given.send_rate,
                receive_rate=given.receive_rate,
                encrypted_hello=given.ech == "allow",
            )
        )

    async def _follow_record(self) -> None:
        """Send the filter the record's limits each time that the record has changed."""
        # In a separate task: a filter that does not read delays no other.
        while True:
            await self.record_changed.wait()
            self.record_changed = trio.Event()
            await self._limit()

    async def run(self) -> None:
        """Handle the filter's messages until it ends.  Raises a group of PeerError."""
        reader = FrameReader(m.MESSAGE_BYTES)
        await self._limit()  # before any answer
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_record)
                while untrusted_data := await self._read():
                    for body in reader.feed(untrusted_data):
                        await self._take(m.decode_from_filter(body), nursery)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                for flow, row in list(self.flows.items()):
                    why = "the sandbox's network was shut down"
                    await self._ended(m.FlowEnded(flow, row.sent, row.received, why))

    async def _read(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        except trio.BrokenResourceError:
            return b""

    async def _take(self, message: m.FromFilter, nursery: trio.Nursery) -> None:
        """Handle a message of the network filter: decide about, record, count flows."""
        match message:
            case m.AskFlow():
                self._check(message)
                asked = self._places[message.number] = _Place(message)
                nursery.start_soon(self._decide, asked)
            case m.FlowRelease():
                if (place := self._places.get(message.number)) is not None:
                    place.released.set()
            case m.FlowBegun():
                await self._begun(message)
            case m.FlowEnded():
                await self._ended(message)
            case m.FlowsMoved():
                now = trio.current_time()
                for flow, sent, received in message.counts:
                    row = self.flows.get(flow)
                    if (
                        row is not None
                        and sent >= row.sent
                        and received >= row.received
                    ):
                        row.moved(sent, received, now)

    def _check(self, asked: m.AskFlow) -> None:
        """Check a filter's question about a flow.  Raises PeerError."""
        # guard: a filter asks about one canonical host
        good = destination_of(asked.host) == asked.host
        if asked.protocol in _PROTOCOLS:
            good = good and asked.port is not None and 0 < asked.port <= 65535
        else:
            good = good and asked.protocol in {"icmp", LOOKUP} and asked.port is None
        # guard: a filter's permits are bounded
        if (
            not good
            or asked.number <= self._last
            or len(self._places) >= 2 * limits.DESTINATIONS
        ):
            raise PeerError("the frame filter sent an invalid destination")
        self._last = asked.number

    async def _decide(self, place: _Place) -> None:
        """Ask for a flow's permit, send the decision, and hold it until released."""
        asked = place.asked
        request = Request(
            lease=self._lease,
            service=NETWORK,
            argument=f"+{asked.host}",
            target=NET,
            protocol=asked.protocol,
            port=asked.port,
            stream=self._opening.stream,
            peer=self._opening.peer,
            settled=True,
            ahead=asked.protocol == LOOKUP,
            counts_bytes=False,
        )
        answered = False
        try:
            # guard: a flow asks the share
            self._log.check_share(self._lease)
            async with self._decider.permit(request) as permit:
                place.where = permit.where
                await self._send(m.FlowAnswer(asked.number, allowed=True))
                # guard: only a yes that the filter has is taken back
                answered = True
                await place.released.wait()
        except (RefusedError, VitrailError):
            over = m.FlowCut(asked.number)
            await self._send(
                over if answered else m.FlowAnswer(asked.number, allowed=False)
            )
        finally:
            self._places.pop(asked.number, None)

    async def _send(self, message: m.ToFilter) -> None:
        """Send one message to the network filter, whole before the next one."""
        async with self._sending:
            try:
                await self._stream.send_all(m.encode(message))
            except trio.BrokenResourceError:
                return  # its end is read, too

    async def _begun(self, message: m.FlowBegun) -> None:
        """Record a flow that the filter began by a permit."""
        place = self._places.get(message.number)
        if place is None:
            return  # its permit ended meanwhile, and the filter has been told
        # guard: a filter's flows are bounded
        if len(self.flows) >= limits.FLOWS + limits.WAITING:
            raise PeerError("the frame filter reported too many flows")
        asked = place.asked
        address = destination_of(message.address) or "?"
        row = FlowRow(
            message.flow, asked.host, address, asked.protocol,
            asked.port or 0, place.where, trio.current_time(),
        )  # fmt: skip
        self.flows[row.flow] = row
        await self._note(schema.StreamOpened(**self._subject(row)))

    async def _ended(self, message: m.FlowEnded) -> None:
        """Record a flow's end and its byte counts."""
        row = self.flows.pop(message.flow, None)
        if row is not None:
            event = schema.StreamClosed(
                **self._subject(row),
                reason=message.reason[:100],
                bytes_from_sandbox=max(0, message.sent),
                bytes_to_sandbox=max(0, message.received),
                seconds=trio.current_time() - row.since,
            )
            await self._note(event)

    def _subject(self, row: FlowRow) -> _FlowSubject:
        """Return the event fields that identify a flow."""
        fields = event_log.of_stream(self._opening)
        detail: dict[str, schema.Scalar] = {
            "flow": row.flow,
            "address": row.address,
            "protocol": row.protocol,
            "port": row.port,
            "rule": row.rule,
        }
        if self._uncounted:
            detail["uncounted"] = self._uncounted
        return _FlowSubject(**fields, argument=f"+{row.host}", detail=detail)

    async def _note(self, event: schema.AnyEvent) -> None:
        """Record a flow's begin or end; beyond the sandbox's share only count it."""
        try:
            self._log.check_share(self._lease)
        except RefusedError:
            self._uncounted += 1
            return
        self._uncounted = 0
        await self._log.note(event)
