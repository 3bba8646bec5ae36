"""A machine of another VMM than QEMU on its way up.

The VMM is started in the jail with an API socket, a console and a directory of its
vsock, and with no machine; ``connect`` then describes one to it, which waits for
``cont``.  So the listeners of the guest's connections exist before the guest runs.

The host runs it; brokerctl starts no machine of these VMMs.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Container, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from broker.host.processes.tracked import Tracked
from broker.host.vmm.accel import DEVICE
from broker.host.vmm.control import CONSOLE_SOCKET, Monitor
from broker.host.vmm.launcher import LaunchPlan
from broker.host.vmm.monitors.console import make_console
from broker.host.vmm.qemu_arguments import Network
from broker.host.vmm.vm_state import API_DIRECTORY, API_SOCKET, state_of
from broker.host.vmm.vsock_backend import UDS_NAME, VSOCK_DIRECTORY, draw_cid

if TYPE_CHECKING:
    from broker.host.vmm.qemu_arguments import VmSpec
    from broker.host.vmm.vmm_jail import JailView

TUN = Path("/dev/net/tun")


def monitor_view(
    spec: VmSpec, program: Path, *, sockets: Sequence[Path], more: Sequence[Path] = ()
) -> JailView:
    """Return the files that a VMM has in its jail: the machine's, and its sockets."""
    from broker.host.vmm.vmm_jail import JailView

    root = () if spec.root is None else (spec.root,)
    home = () if spec.home is None else (spec.home.path,)
    return JailView(
        program,
        readable=(spec.kernel, spec.initrd, *root, *more),
        writable=(*sockets, *home),
        devices=(DEVICE, TUN) if spec.taps else (DEVICE,),
    )


class MonitorPlan(LaunchPlan):
    """What the VMMs with a vsock of their own have in common."""

    monitor: Monitor

    @staticmethod
    async def find_kernel(kernel: Path, cache: Path) -> Path:
        """Return the kernel in the form that the VMM takes, kept in ``cache``."""
        del cache
        return kernel

    @abstractmethod
    def arguments(self) -> list[str]:
        """Return the VMM's command line."""

    def sockets(self) -> Sequence[Path]:
        """Return the directories that the VMM makes sockets in."""
        return (self.api.parent, self.uds.parent)

    def readable(self) -> Sequence[Path]:
        """Return further files that the VMM has in its jail."""
        return ()

    @property
    def api(self) -> Path:
        """Where the VMM makes the socket of its API."""
        return self._spec.directory / API_SOCKET

    @property
    def uds(self) -> Path:
        """Connections of the guest to port P arrive at ``<uds>_P``."""
        return self._spec.directory / VSOCK_DIRECTORY / UDS_NAME

    @property
    def cid(self) -> int:
        """The guest's CID; the path of its sockets is its identity."""
        assert self._state is not None
        return self._state.cid

    @override
    async def start_helpers(self, cid: int | None, quarantine: Container[int]) -> None:
        """Start the network process of a machine, if it has a network."""
        if self._spec.network is not Network.NONE:
            # Late: most machines have no network.
            from broker.host.network.passt import kernel_args
            from broker.host.network.resolvers import read_resolv_conf

            decided = self._spec.network is Network.RULES
            network = kernel_args(read_resolv_conf(), decided=decided)
            self._spec = replace(
                self._spec, kernel_args=(*self._spec.kernel_args, *network)
            )
        self._state = state_of(
            self._spec,
            cid=draw_cid(quarantine) if cid is None else cid,
            hybrid=True,
            accel=self._tools.accel,
            monitor=self.monitor,
        )
        for name in (VSOCK_DIRECTORY, API_DIRECTORY):
            (self._spec.directory / name).mkdir(mode=0o700, exist_ok=True)
        # A VMM does not take the place of a socket that is there.
        for stale in (self.api, self.uds):
            stale.unlink(missing_ok=True)

    @override
    async def spawn_vmm(self, passed: ExitStack) -> Tracked:
        """Start the VMM in its jail, with the console's socket."""
        # Late: a host loads what builds jails with its first machine.
        from broker.host.vmm.vmm_jail import spawn_jailed

        spec, home = self._spec, self._spec.home
        console = make_console(spec.directory / CONSOLE_SOCKET)
        passed.callback(os.close, console)
        return await spawn_jailed(
            self.monitor.program,
            self.arguments(),
            monitor_view(
                spec,
                self._tools.vmm,
                sockets=self.sockets(),
                more=self.readable(),
            ),
            # Its lock lives as long as the VMM.
            pass_fds=() if home is None else (home.lock,),
            unjailed=self._unjailed,
            known=self._write_down,
            entered=self._lay_network if spec.taps else None,
            stdout=console,
        )

    async def _lay_network(self, vmm: Tracked) -> None:
        """Create the VMM's network devices in its jail, before the VMM runs.

        Starts passt and packet guards for them, or joins them to switches.
        """
        from broker.host.network import namespace

        decided = self._spec.network is Network.RULES
        with namespace.namespace_of(vmm) as given:
            for tap, seat in self._spec.taps:
                if seat is None:
                    network = self._network = await namespace.start_network(
                        "tap", given, self._write_down, decided=decided
                    )
                else:
                    network = await namespace.start_card("tap", given, seat, tap)
                self._undo.push_async_callback(network.end)
                self._helpers += network.processes
