"""The switches of this host, and the seats that running sandboxes have at them.

A switch is a process (``process``).  It is started with the first sandbox that
needs it, and ends with the last one, and with this process: a sandbox that outlives its
broker has no network until it is started again.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import network as network_limits
from broker.helpers.process.popen import our_program
from broker.helpers.tools.profiles import PACKET_GUARD
from broker.host.network.addresses import ipv6_beside
from broker.host.network.switch.switch_ports import (
    ROUTER,
    PortRole,
    SwitchPlace,
    mac_of,
    pack_port,
)
from broker.host.processes.tracked import Tracked, spawn_helper

_HOSTS = range(ROUTER + 1, 255)


@dataclass(eq=False)
class SwitchSeat:
    """A sandbox's port: what its network card has to be."""

    conn: socket.socket
    """The far end of the port's stream; who carries the frames gets it."""
    address: str
    router: str
    """Where everything else goes; empty: there is nothing else."""
    name_server: str
    """Who knows names; empty: the other networks' name servers do."""
    switch: _Switch

    @property
    def address6(self) -> str:
        """The card's address of IPv6."""
        return ipv6_beside(self.address)

    @property
    def router6(self) -> str:
        """As ``router``, of IPv6."""
        return ipv6_beside(self.router) if self.router else ""

    @property
    def mac(self) -> str:
        """The card's own address."""
        return mac_of(IPv4Address(self.address).packed).hex(":")

    async def leave(self) -> None:
        """Free the port; the last one ends the switch's process.  Not cancellable."""
        self.conn.close()
        if self.switch.seats.get(self.address) is self:
            del self.switch.seats[self.address]
            # To the end: the address that has been free longest is first.
            self.switch.holders[self.address] = self.switch.holders.pop(self.address)
        if not self.switch.seats:
            await self.switch.end()


@dataclass(eq=False)
class _Switch:
    process: Tracked
    control: socket.socket
    seats: dict[str, SwitchSeat] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    """The sandbox that has or had an address, since the switch was started."""

    async def end(self) -> None:
        self.control.close()
        await self.process.end(limits.VM_QUIT_SECONDS)
        self.process.close()


class Switches:
    """The switches of this host, by name."""

    def __init__(self) -> None:
        self._running: dict[str, _Switch] = {}

    def processes(self) -> tuple[Tracked, ...]:
        """Return the processes of the switches that have members."""
        switches = self._running.values()
        return tuple(switch.process for switch in switches if switch.seats)

    def join_all(
        self, places: Iterable[SwitchPlace], sandbox: str, undo: AsyncExitStack
    ) -> tuple[SwitchSeat, ...]:
        """Join a sandbox to each of these switches, until ``undo``.

        Raises as ``join``.  Starts the process of a switch that has no member yet.
        """
        found = []
        for place in places:
            found.append(self.join(place, sandbox))
            undo.push_async_callback(found[-1].leave)
        return tuple(found)

    def join(self, place: SwitchPlace, sandbox: str) -> SwitchSeat:
        """Join a sandbox to a switch, which is started if needed; return its port.

        Raises RefusedError if no port is free, UpstreamError where the switch does
        not take it.
        """
        switch = self._running.get(place.switch)
        if switch is None or not switch.seats or switch.process.ended:
            switch = self._running[place.switch] = _start(place.network)
        try:
            return self._plug(place, sandbox, switch)
        except BaseException:
            # guard: a switch without a sandbox ends
            if not switch.seats:
                switch.process.kill_now()
            raise

    def _plug(self, place: SwitchPlace, sandbox: str, switch: _Switch) -> SwitchSeat:
        """Plug a sandbox in at a switch; return its seat."""
        address = _free_address(place, sandbox, switch)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        first = f"{place.network}.{ROUTER}"
        router = first if place.role is PortRole.CLIENT else ""
        names = "" if place.role is PortRole.PROVIDER else first
        seat = SwitchSeat(ours, address, router, names, switch)
        with theirs:
            theirs.settimeout(0)
            message = pack_port(IPv4Address(address).packed, place.role, sandbox)
            try:
                socket.send_fds(switch.control, [message], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise UpstreamError(
                    f"cannot connect '{sandbox}' to {place.switch}: {error.strerror}"
                ) from error
        switch.seats[address], switch.holders[address] = seat, sandbox
        return seat


def _start(network: str) -> _Switch:
    """Start a switch process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    with theirs:
        words = ("switch", str(theirs.fileno()), network)
        argv = our_program(*PACKET_GUARD.start, *words)
        try:
            process = spawn_helper("switch", argv, pass_fds=(theirs.fileno(),))
        except BaseException:
            ours.close()
            raise
    return _Switch(process, ours)


def _free_address(place: SwitchPlace, sandbox: str, switch: _Switch) -> str:
    """Return a sandbox's address at a switch: derived from its name, unless taken."""
    taken, holders = switch.seats, switch.holders
    if place.role is PortRole.PROVIDER:
        address = f"{place.network}.{ROUTER}"
        # guard: a switch has one provider
        if address in taken:
            raise RefusedError(
                f"cannot start '{sandbox}': another sandbox already provides {place.switch}",
                hint="stop the other sandbox of this record first",
            )
        return address
    first = hashlib.sha256(sandbox.encode()).digest()[0]
    # guard: a switch has a limit of ports
    if len(taken) >= network_limits.SWITCH_PORTS:
        raise RefusedError(f"{place.switch} already has {len(taken)} sandboxes")
    order = (_HOSTS[(first + step) % len(_HOSTS)] for step in range(len(_HOSTS)))
    free = [a for last in order if (a := f"{place.network}.{last}") not in taken]
    # Others may still have its connections, and its name's address.
    # guard: an address stays with the sandbox that had it
    for address in free:
        if holders.get(address, sandbox) == sandbox:
            return address
    # Only after hundreds have come and gone: the address that has been free longest.
    return next(address for address in holders if address in free)
