"""Leases of machines that other programs started, which a later broker takes up again.

Only leases that hang on a leader: the launcher of another holds a connection, and
learns from its end that the lease is gone.  Written down are the request and who the
leader and the connectors are (``helpers.process.identity``), so that no other process
under their numbers is taken for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from broker.core import limits
from broker.core.errors import RefusedError, VitrailError
from broker.core.files.replace_file import replace_file
from broker.core.names import SandboxName, take_sandbox_name
from broker.helpers.process.identity import ProcessIdentity, boot_id
from broker.host.foreign_machine import ForeignMachine, HeldMachine, machine_of
from broker.host.machine_interface import Machine
from broker.host.processes.tracked import find
from broker.host.role import ActiveLease
from broker.ipc.control.types import leases as api
from policy.records.model import Record


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    boot: str
    sandbox: str
    request: api.LeaseRequest
    processes: list[ProcessIdentity]
    folder_servers: list[ProcessIdentity] = []


class ForeignLeases:
    """Implements ``part.Adopting`` for foreign machines."""

    def __init__(
        self,
        directory: Path,
        check: Callable[[api.LeaseRequest], Record],
        listen_vsock: Callable[[], Awaitable[bool]],
    ) -> None:
        """``check`` returns the record of a request.  Raises RefusedError."""
        self._directory = directory
        self._check = check
        self._listen_vsock = listen_vsock
        self.warnings: list[str] = []

    def save(
        self, active: ActiveLease, request: api.LeaseRequest, machine: ForeignMachine
    ) -> None:
        """Write a lease to ``RUNTIME/foreign/SANDBOX.json``, until its machine is closed.

        A file that cannot be written is a warning.
        """
        path = self._directory / f"{active.lease.sandbox}.json"
        try:
            processes = machine.held.identities()
            servers = [one.identity for one in machine.folder_servers.values()]
            state = _State(boot_id(), active.lease.sandbox, request, processes, servers)
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, msgspec.json.encode(state))
        except (VitrailError, OSError) as error:
            self.warnings.append(
                f"if this broker crashes, {active.lease.sandbox} loses its lease: {error}"
            )
        else:
            machine.note = path

    async def adopt(self) -> Sequence[tuple[SandboxName, SandboxName, Machine]]:
        """Return the machines that outlived an earlier broker; see ``Adopting``.

        Opens their pidfds and listeners; removes the file of a lease that cannot begin
        again, with a warning.
        """
        found: list[tuple[SandboxName, SandboxName, Machine]] = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(await self._adopt(path))
            except (VitrailError, OSError, ValueError, RecursionError) as error:
                path.unlink(missing_ok=True)
                self.warnings.append(
                    f"cannot lease {path.stem} again, which was leased when the broker "
                    f"ended: {error}; to lease it, run 'brokerctl lease acquire'"
                )
        return found

    async def _adopt(self, path: Path) -> tuple[SandboxName, SandboxName, Machine]:
        data = path.read_bytes()[: limits.VM_STATE_BYTES]
        state = msgspec.json.decode(data, type=_State)
        request = state.request
        # The record may have become another one.
        record = self._check(request)
        if request.cid is not None:
            await self._listen_vsock()
        held = HeldMachine([])
        try:
            _hold_living(held, state)
        except BaseException:
            held.close()
            raise
        machine = machine_of(request, held)
        machine.note = path
        for place, identity in enumerate(state.folder_servers):
            server = find(f"virtiofsd-{place}", identity)
            if server is not None:
                machine.folder_servers[place] = server
        return take_sandbox_name(state.sandbox), SandboxName(record.name), machine


def _hold_living(held: HeldMachine, state: _State) -> None:
    """Hold the processes of a lease that still live.

    Raises RefusedError if its leader does not.
    """
    for identity in state.processes if state.boot == boot_id() else ():
        # guard: only the leased processes are taken up again
        tracked = find("leader", identity)
        if tracked is not None:
            held.hold(identity.pid, tracked.pidfd)
    if state.request.leader not in held.alive():
        raise RefusedError("its leader has ended")
