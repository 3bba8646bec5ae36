"""Which flows of a guest are carried: ``network = "rules"``.

Nothing passes that belongs to no flow, and a flow begins with an answer of the viewer
about its destination (``core.streams.network_flows``).  A destination is a name, where the guest
asked us for the name's addresses and its time to live has not passed, or else the
address itself.  The guest's only name server is this filter.

The first bytes of a TLS connection name a server: they pass in order and once, and a
connection to another name than those that led to its address is ended.

Sans-IO: packets, messages and seconds in, packets and messages out.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, ip_address

from broker.core.limits import network as limits
from broker.core.streams import network_flows as m
from broker.core.token_bucket import TokenBucket
from broker.host.network.flowguard.flows import (
    CarriedFlow,
    Destination,
    FlowAttempt,
    FlowKey,
)
from broker.host.network.flowguard.guest_names import GuestNames
from broker.host.network.flowguard.link_packets import LinkPackets
from broker.host.network.flowguard.public_resolvers import RESOLVERS
from broker.host.network.flowguard.quic_hello import QuicHellos, QuicIdentifiers
from broker.host.network.flowguard.rates import TrafficRates, took
from broker.host.network.flowguard.tls_hello import (
    HANDSHAKE,
    TLS_PORTS,
    Hello,
    HelloError,
    read_hellos,
)
from broker.host.network.frameguard.neighbours import is_arp
from broker.host.network.frameguard.packets import (
    ACK,
    ECHO,
    ECHO_REPLY,
    FIN,
    ICMP,
    ICMP6,
    RST,
    SYN,
    TCP,
    UDP,
    Packet,
    read,
    refusal,
    reset_back,
    reset_on,
    segment,
)
from policy.destinations import is_inner

_PROTOCOLS = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMP6: "icmp"}
_DNS, _DOT, _HTTPS = 53, 853, 443
_TELLS = {ICMP: frozenset({3, 11}), ICMP6: frozenset({1, 2, 3})}
"""ICMP from outside that is about a flow: unreachable, too big, time exceeded."""


class FlowFilter:
    """The flows of one guest.

    ``to_guest``, ``to_passt``, ``to_viewer``, ``to_resolver`` and ``to_streams`` (the
    resolver by TCP) are taken and emptied by the caller after each call.
    """

    def __init__(
        self,
        guest: str,
        resolver: str,
        closed: Callable[[bytes], bool],
        *,
        leases: bool = False,
        guest6: str = "",
        gateway6: str = "",
        name_servers: int = 1,
    ) -> None:
        """Set up a filter; ``leases``: passt tells the guest its address (DHCP).

        ``guest6``: an address of the guest's 64 bits; empty: it has no IPv6.
        """
        self._resolver = IPv4Address(resolver).packed
        self._closed = closed
        self.to_guest: list[bytes] = []
        self.to_passt: list[bytes] = []
        self.to_viewer: list[m.FromFilter] = []
        self._numbers = 0
        self._destinations: dict[tuple[str, str, int | None], Destination] = {}
        self._by_number: dict[int, Destination] = {}
        self._flows: dict[FlowKey, CarriedFlow] = {}
        self._identifiers = QuicIdentifiers()
        self._pace = TokenBucket(limits.FLOWS_PER_SECOND, limits.FLOWS_BURST)
        self._most_flows = limits.FLOWS
        self._may_encrypt_hello = True
        self.rates = TrafficRates()
        self._link = LinkPackets(
            guest,
            self.to_passt.append,
            leases=leases,
            guest6=guest6,
            gateway6=gateway6,
        )
        self._answer_bytes = 0
        """Of the name server's frames in ``to_guest`` that are not counted yet."""
        self._names = GuestNames(
            self._answer,
            self._ask,
            lambda: self.connected,
            self.rates.may_ask,
            has_ipv6=self._link.has_ipv6,
            servers=name_servers,
        )
        self.to_resolver = self._names.to_resolver
        self.to_streams = self._names.to_streams
        self.answered = self._names.answered
        self.connected = True
        """Whether a viewer answers.  Without it nothing begins."""

    @property
    def name_server(self) -> int:
        """Which of this machine's name servers is asked, from 0."""
        return self._names.server

    def ask_others(self, servers: int) -> None:
        """Ask other name servers from now on, as many, also what waits for an answer."""
        self._names.ask_others(servers)

    def _answer(self, frame: bytes) -> None:
        self._answer_bytes += len(frame)
        self.to_guest.append(frame)

    def count_answers(self, now: float) -> None:
        """Count what the name server gave; called when ``to_guest`` is taken."""
        self.rates.count_answers(self._answer_bytes, now)
        self._answer_bytes = 0

    # -- from the guest ----------------------------------------------------------

    def outward(self, untrusted_frame: bytes, now: float) -> None:
        """Filter a frame from the guest: pass it to passt, answer, ask or drop it."""
        if is_arp(untrusted_frame):
            self._link.take_arp(untrusted_frame, now)
            return
        plain = segment(untrusted_frame)
        if plain is not None and self._link.is_guest(plain[0]):
            flow = self._flows.get((TCP, plain[2], plain[1], plain[3]))
            looked_at = flow is None or flow.hello is not None or flow.checked
            # guard: later segments of a flow are of its address
            if flow is not None and not looked_at and plain[0] == flow.guest:
                flow.used = now
                flow.note(untrusted_frame)
                flow.sent += len(untrusted_frame)
                self.to_passt.append(untrusted_frame)
                return
        packet = read(untrusted_frame)
        if packet is None or self._link.takes(packet, now):
            return
        # guard: a guest sends from its address
        if not self._link.is_guest(packet.sender):
            return
        key = (packet.protocol, packet.source, packet.receiver, packet.target)
        flow = self._known_flow(key, packet)
        if flow is not None:
            self._carry(flow, packet, now)
        elif packet.receiver == self._resolver:
            self._names.take(packet, now)
        elif not self._closed(untrusted_frame):
            self._begin(key, packet, now)
        elif packet.protocol == TCP and packet.flags & (SYN | RST | ACK) == SYN:
            self.to_guest.append(refusal(packet))  # nobody waits for a timeout

    def _known_flow(self, key: FlowKey, packet: Packet) -> CarriedFlow | None:
        """Return the flow that a packet belongs to, if there is one.

        Ends a flow if the packet begins another connection by its ports.
        """
        flow = self._flows.get(key)
        # guard: a connection that reuses ports is a new flow
        if flow is not None and flow.begins_another(packet):
            self.cut(flow, "its ports were reused", tell=False)
            return None
        return flow

    def _begin(self, key: FlowKey, packet: Packet, now: float) -> None:
        """Begin a flow by its first packet: ask for a verdict."""
        if packet.protocol == TCP and packet.flags & (SYN | RST | FIN | 16) != SYN:
            # RFC 9293, 3.10.7.1, as a host does.  The guest may have dropped the reset
            # of a flow that was cut: that names the last acknowledgement, which the
            # guest delays.  This segment names the number that it takes a reset at.
            if not packet.flags & RST:
                self.to_guest.append(reset_back(packet))
            return
        if packet.kind != ECHO.get(packet.protocol, 0):
            return
        # guard: name servers are ours alone
        if packet.target in {_DNS, _DOT} and packet.protocol in {TCP, UDP}:
            self.to_guest.append(refusal(packet))
            return
        # guard: public name servers are not asked by HTTPS
        if packet.target == _HTTPS and packet.receiver in RESOLVERS:
            self.to_guest.append(refusal(packet))
            return
        # guard: a connection begins without data
        if packet.protocol == TCP and packet.data:
            return
        full = len(self._flows) >= self._most_flows
        # guard: new flows have a pace
        if full or not self.connected or not took(self._pace, now):
            self.to_guest.append(refusal(packet))
            return
        address = str(ip_address(packet.receiver))
        names = self._names.leading_to(packet.receiver, now)
        # guard: an inner address is open by its own rule
        if is_inner(f"+{address}"):
            names = ()
        port = packet.target if packet.protocol in {TCP, UDP} else None
        attempt = FlowAttempt(key, packet, names, port, [*names, address])
        self._try(attempt, now)

    def _try(self, attempt: FlowAttempt, now: float) -> None:
        """Ask about each name of an address, and the address, until one is open."""
        packet, host = attempt.packet, attempt.hosts[0]
        place = self._ask(host, _PROTOCOLS[packet.protocol], attempt.port, now)
        if place is None:
            self.to_guest.append(refusal(packet))
        elif place.allowed is None:
            place.wait(len(packet.frame), lambda then: self._try(attempt, then))
        elif place.allowed:
            self._open(attempt, place, now)
        elif attempt.hosts[1:]:
            del attempt.hosts[0]
            self._try(attempt, now)
        else:
            self.to_guest.append(refusal(packet))

    def _open(self, attempt: FlowAttempt, place: Destination, now: float) -> None:
        """Open a permitted flow, and send its first packets on."""
        packet, key = attempt.packet, attempt.key
        if key in self._flows or len(self._flows) >= self._most_flows:
            return  # it was sent again while its first packet waited
        names = attempt.names if place.host in attempt.names else ()
        self._numbers += 1
        guest = packet.sender
        flow = CarriedFlow(self._numbers, key, guest, place, names, b"", 0, now)
        flow.note(packet.frame)
        flow.first = packet.sequence + 1 & 0xFFFFFFFF
        if packet.protocol == TCP and names:
            flow.hello = bytearray()
        place.flows += 1
        self._flows[key] = flow
        address = str(ip_address(packet.receiver))
        self.to_viewer.append(m.FlowBegun(flow.number, place.number, address))
        if packet.protocol == UDP and names:
            required = packet.target == _HTTPS
            flow.quic = QuicHellos(self._identifiers, required=required)
        self._carry(flow, packet, now)

    def _carry(self, flow: CarriedFlow, packet: Packet, now: float) -> None:
        """Carry a packet of an open flow; cut a flow whose hello is not permitted."""
        flow.used = now
        if packet.protocol == TCP:
            looked_at = flow.hello is not None or flow.checked
            if looked_at and packet.data and not self._check_hello(flow, packet, now):
                return
            if packet.flags & RST:
                flow.sent += len(packet.frame)
                self.to_passt.append(packet.frame)
                self._end(flow, "reset")
                return
            if packet.flags & FIN:
                flow.ending |= 1
        elif packet.kind != ECHO.get(packet.protocol, 0):
            return
        if flow.quic is not None and not self._check_quic(flow, packet, now):
            return
        flow.note(packet.frame)
        flow.sent += len(packet.frame)
        self.to_passt.append(packet.frame)

    def _check_hello(self, flow: CarriedFlow, packet: Packet, now: float) -> bool:
        """Check a segment of an undecided flow against its TLS hello.

        Return if it passes.
        """
        at = packet.sequence - flow.first & 0xFFFFFFFF
        at -= 1 << 32 if at >= 1 << 31 else 0
        data = packet.data
        known = flow.checked if flow.hello is None else bytes(flow.hello)
        if at < len(known):
            overlap = known[at : at + len(data)] if at >= 0 else b""
            # guard: a repeated TCP segment has the checked bytes
            return (
                bool(overlap)
                and data.startswith(overlap)
                and (flow.hello is None or len(overlap) == len(data))
            )
        if flow.hello is None:
            return True
        # guard: a hello passes in order
        if at > len(known):
            return False
        try:
            required = packet.target in TLS_PORTS
            hellos = read_hellos(known + data, flow.hellos, required=required)
        except HelloError as error:
            self.cut(flow, f"cannot parse its ClientHello: {error}", packet)
            return False
        if not all(self._may_begin(flow, hello, packet, now) for hello in hellos):
            return False
        flow.hello += data
        flow.hellos += len(hellos)
        # guard: the hello after a server's retry is looked at
        if hellos and (flow.hellos > 1 or flow.hello[0] != HANDSHAKE):
            flow.end_hello()
        return True

    def _check_quic(self, flow: CarriedFlow, packet: Packet, now: float) -> bool:
        """Return whether a QUIC datagram may pass; cuts flows that are not allowed."""
        quic = flow.quic
        assert quic is not None
        if not quic.take(packet.data):
            # guard: a hello of QUIC that cannot be read ends its flow
            if quic.over:
                self.cut(flow, quic.over, packet)
            # guard: a flow of QUIC begins with a hello that is read
            elif not quic.begun and not quic.reads:
                self.cut(flow, "it does not begin with a QUIC Initial packet", packet)
            return False
        while quic.unchecked:
            if not self._may_begin(flow, quic.unchecked[0], packet, now):
                return False
            quic.unchecked.pop(0)
        # guard: no part of a hello of QUIC passes before the whole
        if quic.partial:
            quic.hold(packet.frame)
            return False
        flow.sent += sum(map(len, quic.held))
        self.to_passt += quic.held
        quic.held.clear()
        return True

    def _may_begin(
        self, flow: CarriedFlow, hello: Hello, packet: Packet, now: float
    ) -> bool:
        """Return whether a connection may begin with this hello; cut it otherwise."""
        # guard: a record closes encrypted hellos
        if hello.encrypted and not self._may_encrypt_hello:
            self.cut(flow, "its ClientHello is encrypted (ECH)", packet)
            return False
        # guard: a flow is to one server
        if flow.named not in {None, hello.name}:
            self.cut(flow, "it changed to another server name", packet)
            return False
        flow.named = hello.name
        return not hello.name or self._may_name(flow, hello.name, packet, now)

    def _may_name(
        self, flow: CarriedFlow, name: str, packet: Packet, now: float
    ) -> bool:
        """Return whether a connection to a server of this name may continue.

        Asks about the name if needed, and cuts what is not allowed.
        """
        # guard: the server's name is a name of the address
        if name not in flow.names:
            reason = "its server name did not resolve to its address"
            self.cut(flow, reason, packet)
            return False
        old = flow.destination
        if name == old.host:
            return True
        place = self._ask(name, old.protocol, old.port, now)
        if place is not None and place.allowed is None:
            place.wait(len(packet.frame), lambda then: self._again(flow, packet, then))
            return False
        # guard: the server's name is permitted itself
        if place is None or not place.allowed:
            self.cut(flow, "its server name is not permitted", packet)
            return False
        flow.destination = place
        old.flows -= 1
        place.flows += 1
        return True

    def _again(self, flow: CarriedFlow, packet: Packet, now: float) -> None:
        if self._flows.get(flow.key) is flow:
            self._carry(flow, packet, now)

    # -- from outside ----------------------------------------------------------------

    def inward(self, frame: bytes, now: float) -> None:
        """Filter a frame from passt; queue it for the guest if its flow is allowed."""
        if is_arp(frame):
            self.to_guest.append(frame)
            return
        plain = segment(frame)
        if plain is not None:
            flow = self._flows.get((TCP, plain[3], plain[0], plain[2]))
            if flow is not None and not flow.checked and flow.hello is None:
                flow.used = now
                flow.received += len(frame)
                self.to_guest.append(frame)
                return
        packet = read(frame)
        if packet is None:
            return
        if self._link.may_come(packet):
            self.to_guest.append(frame)
            return
        key = (packet.protocol, packet.target, packet.sender, packet.source)
        flow = self._flows.get(key)
        if flow is None:
            if packet.kind in _TELLS.get(packet.protocol, ()):
                self.to_guest.append(frame)
            # guard: nothing comes in without a flow
            return
        if packet.kind != ECHO_REPLY.get(packet.protocol, 0):
            return
        flow.used = now
        flow.received += len(frame)
        self.to_guest.append(frame)
        self._follow(flow, packet)

    def _follow(self, flow: CarriedFlow, packet: Packet) -> None:
        """Update a flow's state from a packet of the outside: its answers, its end."""
        if flow.quic is not None:
            flow.quic.answer(packet.data)
        if packet.protocol != TCP:
            return
        if flow.hello is not None:
            flow.take_answer(packet)
        if flow.checked and packet.flags & 16:
            taken = packet.acknowledged - flow.first & 0xFFFFFFFF
            if len(flow.checked) <= taken < 1 << 31:
                flow.checked = b""
        if packet.flags & RST:
            self._end(flow, "the server reset the connection")
        elif packet.flags & FIN:
            flow.ending |= 2

    # -- the viewer ------------------------------------------------------------------

    def _ask(
        self, host: str, protocol: str, port: int | None, now: float
    ) -> Destination | None:
        """Return a destination; None if no more can be asked about."""
        key = (host, protocol, port)
        place = self._destinations.get(key)
        if place is not None and place.allowed is False and now > place.until:
            self._forget(place)
            place = None
        if place is None:
            if len(self._destinations) >= limits.DESTINATIONS:
                self.tick(now)
            # guard: destinations are bounded
            if len(self._destinations) >= limits.DESTINATIONS or not self.connected:
                return None
            self._numbers += 1
            place = Destination(self._numbers, host, protocol, port)
            self._destinations[key] = self._by_number[place.number] = place
            self.to_viewer.append(m.AskFlow(place.number, host, protocol, port))
        if place.allowed:
            place.until = now + limits.IDLE_DESTINATION_SECONDS
        return place

    def _forget(self, place: Destination) -> None:
        self._by_number.pop(place.number, None)
        self._destinations.pop((place.host, place.protocol, place.port), None)

    def decided(self, message: m.ToFilter, now: float) -> None:
        """Handle the viewer's decision, the end of a permission, or new limits."""
        if isinstance(message, m.FlowLimits):
            self._limit(message)
            return
        place = self._by_number.get(message.number)
        if place is None:
            return
        if isinstance(message, m.FlowCut):
            self._forget(place)
            for flow in [f for f in self._flows.values() if f.destination is place]:
                self.cut(flow, "its permission was revoked")
            return
        place.allowed = message.allowed
        kept = (
            limits.IDLE_DESTINATION_SECONDS
            if message.allowed
            else limits.REFUSED_SECONDS
        )
        place.until = now + kept
        place.go_on(now)

    def _limit(self, given: m.FlowLimits) -> None:
        """Set the limits that the viewer gives."""
        # guard: a record's limits are at most those of everybody
        self._most_flows = min(given.flows, limits.FLOWS)
        rate = min(given.new_flows, limits.FLOWS_PER_SECOND)
        burst = limits.FLOWS_BURST // limits.FLOWS_PER_SECOND
        self._pace = TokenBucket(rate, rate * burst)
        self._names.limit(given.lookups)
        self._may_encrypt_hello = given.encrypted_hello
        self.rates.limit(given.send_rate, given.receive_rate)

    def cut_own(self, is_own: Callable[[bytes], bool]) -> None:
        """Cut the flows to addresses that this machine has got."""
        for flow in [f for f in self._flows.values() if is_own(f.key[2])]:
            # guard: an address that this machine gets has no open flow
            self.cut(flow, "its address is this machine's now")

    def lost(self) -> None:
        """Cut all flows, because the viewer that decides them has disconnected."""
        self.connected = False
        for flow in list(self._flows.values()):
            self.cut(flow, "the broker is no longer running")
        self._destinations.clear()
        self._by_number.clear()
        self.to_viewer.clear()

    def tick(self, now: float) -> None:
        """End idle flows, and forget those that ended; called once a second."""
        self._names.tick(now)
        self._identifiers.tick(now)
        for flow in list(self._flows.values()):
            idle = limits.IDLE_SECONDS[_PROTOCOLS[flow.key[0]]]
            if flow.ending == 3:
                idle = limits.ENDED_SECONDS
            if now - flow.used > idle:
                # guard: what is forgotten here has ended at passt, too
                self.cut(flow, "closed" if flow.ending == 3 else "idle", tell=False)
        for place in list(self._destinations.values()):
            if place.allowed is not None and not place.flows and now > place.until:
                self._forget(place)
                if place.allowed:
                    self.to_viewer.append(m.FlowRelease(place.number))

    def report_bytes(self) -> None:
        """Report the flows that moved bytes to the viewer; called once a second."""
        moved = []
        for flow in self._flows.values():
            if flow.sent + flow.received != flow.reported:
                flow.reported = flow.sent + flow.received
                moved.append((flow.number, flow.sent, flow.received))
        for at in range(0, len(moved), m.MOVED):
            self.to_viewer.append(m.FlowsMoved(moved[at : at + m.MOVED]))

    def cut(
        self,
        flow: CarriedFlow,
        reason: str,
        last: Packet | None = None,
        *,
        tell: bool = True,
    ) -> None:
        """End a flow on both sides, or (not ``tell``) on passt's only.

        ``last``: a packet that was not passed on, by which the guest is informed.
        """
        if flow.key[0] == TCP:
            passed = read(flow.head.ljust(flow.size, b"\0"))
            assert passed is not None  # it was read when it passed
            if tell:
                self.to_guest.append(reset_back(last or passed))
            self.to_passt.append(reset_on(passed))
        elif last is not None:
            self.to_guest.append(refusal(last))
        self._end(flow, reason)

    def _end(self, flow: CarriedFlow, reason: str) -> None:
        if self._flows.pop(flow.key, None) is not None:
            flow.destination.flows -= 1
            self.to_viewer.append(
                m.FlowEnded(flow.number, flow.sent, flow.received, reason)
            )
