"""Cut the networks of sandboxes while a lockdown with networks is in force.

The processes that carry their frames (packet guards, passt, switches) are stopped by
SIGSTOP: no frame passes, in no direction.  With the lockdown's end they continue.

The host does this by order of the authority, and for each sandbox that begins meanwhile.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from broker.host.network.switch.switches import Switches
from broker.host.processes.tracked import Tracked
from broker.host.role import HostRole
from broker.ipc.control.authority_methods import CUT_NETWORKS
from broker.ipc.control.method import Exchange, serves
from broker.ipc.control.types.leases import CutNetworksAnswer, CutNetworksRequest

_STOP_SECONDS = 2.0
"""Deadline for the kernel to stop a process; a process in disk sleep takes longer."""
_LOOK_SECONDS = 0.005


@dataclass(eq=False)
class CutNetworks:
    """The networks of a host's sandboxes, which a lockdown cuts."""

    host: HostRole
    switches: Switches
    flows_too: bool = False
    """Whether networks by rules are cut here: another machine decides their flows."""
    in_force: bool = False

    def __post_init__(self) -> None:
        self.host.before_run = self.stop_new

    @serves(CUT_NETWORKS)
    async def change(
        self, exchange: Exchange[CutNetworksAnswer], request: CutNetworksRequest
    ) -> CutNetworksAnswer:
        """Cut or restore all networks; return the sandboxes that still have one."""
        del exchange
        self.in_force = request.cut
        self._send(signal.SIGSTOP if request.cut else signal.SIGCONT)
        return CutNetworksAnswer(open=await self._open() if request.cut else [])

    def stop_new(self) -> None:
        """Stop also the network of a sandbox that begins while networks are cut.

        Those of an adopted one continue by the authority's order only.
        """
        # guard: a start that a lockdown overtakes has no network
        if self.in_force:
            self._send(signal.SIGSTOP)

    def _send(self, number: signal.Signals) -> None:
        for _, processes in self._networks():
            for process in processes or ():
                process.kill(number)

    def _networks(self) -> Iterable[tuple[str, tuple[Tracked, ...] | None]]:
        """Yield each sandbox with the processes of its network; None: others started them."""
        switches = self.switches.processes()
        for active in self.host.active_leases():
            find: Callable[..., tuple[Tracked, ...] | None]
            find = getattr(active.machine, "network_processes", lambda **_: None)
            processes = find(flows_too=self.flows_too)
            all_of_it = None if processes is None else (*processes, *switches)
            yield active.lease.sandbox, all_of_it

    async def _open(self) -> list[str]:
        """Return the sandboxes whose network works, by the state of its processes."""
        with trio.move_on_after(_STOP_SECONDS):
            # No event tells that a process is stopped.
            while any(  # noqa: ASYNC110 -- see above
                not _is_stopped(processes or ()) for _, processes in self._networks()
            ):
                await trio.sleep(_LOOK_SECONDS)
        # guard: a network of others, or one that still runs, is named
        return [
            sandbox
            for sandbox, processes in self._networks()
            if processes is None or not _is_stopped(processes)
        ]


def _is_stopped(processes: Iterable[Tracked]) -> bool:
    return all(process.stopped or process.ended for process in processes)
