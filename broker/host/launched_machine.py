"""A sandbox that another program started, from its binding to its end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio
from typing_extensions import override

from broker.core.files.trees import remove_tree
from broker.core.names import SandboxName, ServiceName
from broker.helpers.process.popen import ask_to_end
from broker.helpers.process.spawn import has_ended, send_signal, wait_ended
from broker.host.acceptor import Acceptors
from broker.host.foreign_machine import (
    ForeignMachine,
    HeldMachine,
    admit_other_users,
)
from broker.host.launchers.interface import Prepared, write_state
from broker.host.machine_interface import ConnectionKind
from broker.host.places import network_of, places_of
from broker.host.processes.tracked import Tracked, find
from broker.host_and_viewer.find_record import find_record
from broker.net.peers.identity import Claim, ContainerClaim, GroupClaim
from policy.records.model import RecordSet

if TYPE_CHECKING:
    from broker.host.network.passt import GuestNetwork
    from broker.host.network.switch.switches import Switches, SwitchSeat

_KILL_SECONDS = 10.0
"""For the kernel to end a killed process; longer where its disk does not answer."""


class LaunchedMachine(ForeignMachine):
    """A sandbox that was bound to its first process."""

    def __init__(
        self, state: Prepared, claim: Claim, held: HeldMachine, leader: int
    ) -> None:
        super().__init__(claim, held, leader)
        self.state = state
        self._first, self._pidfd = leader, held.pidfd(leader)
        self._networks: list[GuestNetwork] = []
        """What carries its frames; nothing if an earlier broker started it."""
        self._seats: tuple[SwitchSeat, ...] = ()
        self._undo = AsyncExitStack()
        self.flows: socket.socket | None = None
        """The frame filter's questions, for the viewer; the viewer closes it."""
        self.must_end = False
        """Whether its first process ends with its lease, though another started it."""
        self.over = False
        """Its launcher has ended it: no later broker leases it again."""
        self._left_alive = False

    async def connect(self, records: RecordSet, switches: Switches) -> None:
        """Create the network interfaces of its record for our sandbox.

        Raises as ``start_box_network`` and ``Switches.join``, and OSError, closed then.
        """
        if not self.state.ours:
            return
        record = find_record(records, SandboxName(self.state.record))
        network = network_of(record)
        try:
            places = places_of(record, records.records)
            self._seats = switches.join_all(places, self.state.sandbox, self._undo)
            await self._connect(network)
            launch = record.host.launch
            # A Flatpak with a network has that of this machine.
            if launch.kind.network or getattr(launch, "share_network", None) is False:
                self._write_carriers()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.close()
            raise

    def _write_carriers(self) -> None:
        """Write down the processes of its network, for a later broker.  Raises OSError."""
        carriers = [p.identity for network in self._networks for p in network.processes]
        self.state = msgspec.structs.replace(self.state, carriers=carriers)
        write_state(self.state)

    def network_processes(self, *, flows_too: bool) -> tuple[Tracked, ...] | None:
        """Return the processes that carry its frames, but those that ask about flows.

        None: others give it its network.
        """
        if self.state.carriers is None:
            return None
        networks = [net for net in self._networks if flows_too or net.flows is None]
        return tuple(process for net in networks for process in net.processes)

    def adopt_network(self) -> None:
        """Hold the processes of its network, which an earlier broker started."""
        if not self.state.carriers:
            return
        # Late: most boxes have no network.
        from broker.host.network.passt import GuestNetwork

        carriers = [find("network", identity) for identity in self.state.carriers]
        processes = tuple(process for process in carriers if process is not None)
        self._networks.append(GuestNetwork(processes))

    async def _connect(self, network: str) -> None:
        """Set up the box's network and its seats at switches.

        Starts passt and packet guards, which make interfaces in its network namespace.
        """
        if network == "none" and not self._seats:
            return
        # Late: most boxes have no network.
        from broker.host.network.box_network import start_box_card, start_box_network

        if network in {"user", "rules"}:
            found = await start_box_network(self._pidfd, decided=network == "rules")
            self.flows = found.flows
            self._networks.append(found)
        for seat in self._seats:
            name = f"eth{len(self._networks)}"
            self._networks.append(await start_box_card(self._pidfd, seat, name))

    @override
    async def open_doors(
        self, acceptors: Acceptors
    ) -> Mapping[ServiceName, ConnectionKind]:
        """Open its sockets, and let a container's users other than root connect.

        They are other users outside (user_namespaces(7)).  Outside, the directory above
        keeps them from these sockets; inside, the pid namespace or the control group
        decides, not the user.
        """
        doors = await super().open_doors(acceptors)
        if isinstance(self.claim, ContainerClaim | GroupClaim):
            admit_other_users(self.state.sockets, doors)
            self.state.sockets.chmod(0o755)
        return doors

    @override
    async def power_down(self, grace: float) -> None:
        """End its first process if ``brokerctl run`` started the sandbox, or it must end.

        Its program is asked to end before.
        """
        if not (self.state.ours or self.must_end):
            # It runs on; the next broker leases it again.
            self._left_alive = not has_ended(self._pidfd)
        elif not has_ended(self._pidfd):
            await _end(self._first, self._pidfd, grace)
        await super().power_down(grace)

    @override
    async def close(self) -> None:
        """Close its descriptors and networks; remove its directory if it has ended."""
        await super().close()
        if self.flows is not None:
            self.flows.close()
        if not self._left_alive:
            for network in self._networks:
                await network.end()
        await self._undo.aclose()
        if self.over or not self._left_alive:
            discard(self.state)


async def _end(first: int, leased: int, grace: float) -> None:
    """End a first process, by a separate descriptor.

    Its lease may end meanwhile and closes ``leased``; the number may then be that of
    another process's descriptor.
    """
    try:
        # guard: ending a sandbox kills no process of another descriptor
        pidfd = os.dup(leased)
    except OSError:
        # No descriptor is free: it ends without a period of grace.
        send_signal(leased)
        return
    try:
        send_signal(pidfd, signal.SIGTERM)
        ask_to_end(first, pidfd)
        with trio.move_on_after(grace):
            await wait_ended(pidfd)
        send_signal(pidfd)
        with trio.move_on_after(_KILL_SECONDS):
            await wait_ended(pidfd)
    finally:
        os.close(pidfd)


def discard(state: Prepared) -> None:
    """Remove a launch's directory and the record that was made for it."""
    if state.made:
        with suppress(FileNotFoundError):
            Path(state.made).unlink()
    remove(Path(state.directory))


def remove(directory: Path) -> None:
    """Remove a launch's directory; a mount of it elsewhere keeps its files."""
    remove_tree(directory)
