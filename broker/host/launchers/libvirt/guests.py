"""Domains of libvirt as machines that a host can lease.

libvirt's hook reports three steps (``MachineEventRequest``); this broker never
calls libvirt.  The record whose ``peer.libvirt`` is the domain's name or UUID
says which sandbox it is, and nothing that the hook reports can choose another.
'brokerctl run' of a record with ``launch.kind = "libvirt-qemu"`` or ``"vmspawn"``
reports the same steps of the domain or machine that it makes.

    prepare   the record is found; for a vhost-user vsock, vhost-device-vsock is
              started in its jail and waits for QEMU, and so is the virtiofsd of
              each place for a folder.  No socket of a service exists yet, so a
              guest that connects early is refused.
    started   QEMU runs: its pidfd is opened, its command line has to name the
              domain's UUID, and the lease begins.  The same again after
              libvirtd was restarted changes nothing.
    release   what ``prepare`` made for a start that failed is removed.  A lease
              ends with QEMU's pidfd, whatever libvirt reports.

vhost-device-vsock would serve the next QEMU under the same path and CID, so it
ends with the lease.  ``state.json`` lets a later broker take a domain over.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio
from typing_extensions import override

from broker.core import limits
from broker.core.errors import (
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import printable
from broker.core.files.replace_file import replace_file
from broker.core.files.trees import remove_tree
from broker.core.names import SandboxName, ServiceName, take_sandbox_name
from broker.core.paths import Paths
from broker.helpers.process.identity import ProcessIdentity, boot_id, identity_of
from broker.helpers.process.removal import remove_aside
from broker.host.acceptor import Acceptors
from broker.host.foreign_machine import ForeignMachine, HeldMachine, hybrid_doors
from broker.host.launchers.libvirt.folder_places import (
    end_places,
    living_places,
    served_places,
    start_places,
    wanted_places,
)
from broker.host.launchers.machined.containers import (
    LIBVIRT_LXC,
    libvirt_container,
    libvirt_sockets,
    make_directory,
)
from broker.host.machine_interface import ConnectionKind, MachineFacts
from broker.host.processes.ready import wait_listening
from broker.host.processes.tracked import Tracked, find
from broker.host.required_parts import require_parts
from broker.host.role import HostRole
from broker.host.vmm.vsock_backend import (
    BACKEND_SOCKET,
    HELPER,
    UDS_NAME,
    VSOCK_DIRECTORY,
    draw_cid,
    spawn_backend,
)
from broker.ipc.control.types import leases as api
from broker.net.peers import credentials
from broker.net.peers.identity import Claim, HybridClaim, VsockClaim, take_cid
from policy.records.model import External, LibvirtPeer, Record, RecordSet, ThrowawayVm

_STATE = "state.json"
_LAUNCHERS = frozenset({"libvirt", "vmspawn", LIBVIRT_LXC})
_EVENTS = frozenset({"prepare", "started", "release"})


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a domain that a later broker needs to adopt it.

    ``leader`` is None for a prepared guest that has not started.
    """

    boot: str
    record: str
    leader: ProcessIdentity | None
    backend: ProcessIdentity | None
    cid: int | None
    folder_servers: dict[int, ProcessIdentity] = {}


@dataclass
class _Expected:
    """A domain that was prepared and has not started."""

    backend: Tracked | None = None
    folder_servers: dict[int, Tracked] = field(default_factory=dict)


class LibvirtMachine(ForeignMachine):
    """A domain that runs; QEMU is its leader, libvirt's to end."""

    def __init__(
        self,
        claim: Claim,
        held: HeldMachine,
        leader: int,
        *,
        directory: Path,
        backend: Tracked | None,
        folder_servers: dict[int, Tracked],
    ) -> None:
        super().__init__(claim, held, leader)
        self._directory = directory
        self._backend = backend
        self.folder_servers = folder_servers

    @property
    @override
    def facts(self) -> MachineFacts:
        """Return QEMU's pid and CID, and the pids of our helpers."""
        facts = super().facts
        helpers = [(one.role, one.pid) for one in self.folder_servers.values()]
        if self._backend is not None:
            helpers.append((HELPER, self._backend.pid))
        return MachineFacts(pid=facts.pid, cid=facts.cid, processes=tuple(helpers))

    @override
    async def open_doors(
        self, acceptors: Acceptors
    ) -> Mapping[ServiceName, ConnectionKind]:
        """Listen where vhost-device-vsock connects, or nowhere for a CID."""
        del acceptors  # a machine passes no descriptors
        if isinstance(self.claim, HybridClaim):
            # guard: a domain's lock on its sockets is not waited for
            return await hybrid_doors(Path(self.claim.base), alone=True)
        return {}

    @override
    async def wait(self) -> str:
        """Wait until QEMU or its vsock helper has ended; return the reason."""
        if self._backend is None:
            return await super().wait()
        reasons: list[str] = []
        async with trio.open_nursery() as nursery:

            async def vmm() -> None:
                reasons.append(await ForeignMachine.wait(self))
                nursery.cancel_scope.cancel()

            nursery.start_soon(vmm)
            await self._backend.wait()
            reasons.append(f"{HELPER} has ended")
            nursery.cancel_scope.cancel()
        return reasons[0]

    @override
    async def close(self) -> None:
        """End the vsock helper, so that no other QEMU gets it; leave QEMU running.

        No folder outlives the lease.
        """
        await end_places(self.folder_servers)
        self.folder_servers = {}
        await super().close()
        if self._backend is not None:
            await self._backend.end(0)
            self._backend.close()
        await remove_aside(remove_tree, self._directory)


class LibvirtGuests:
    """Leases domains as libvirt's hook reports them."""

    def __init__(
        self,
        *,
        paths: Paths,
        host: HostRole,
        records: Callable[[], RecordSet],
        listen_vsock: Callable[[], Awaitable[object]],
    ) -> None:
        self._paths = paths
        self._host = host
        self._records = records
        self._listen_vsock = listen_vsock
        self._expected: dict[str, _Expected] = {}
        self._one_at_a_time = trio.Lock()
        self._ending = False

    async def event(self, request: api.MachineEventRequest) -> api.MachineEventAnswer:
        """Handle an event of libvirt's hook: prepare, started, stopped or release.

        Raises RefusedError, SetupError or UpstreamError.  Preparing starts the domain's
        helpers, a start leases it, and both write files; a release ends the helpers.
        """
        if request.launcher not in _LAUNCHERS or request.event not in _EVENTS:
            raise RefusedError(
                f"unknown step '{printable(request.event, 40)}' of launcher '{printable(request.launcher, 40)}'",
                hint="to install the hook of this version, run 'sudo brokerctl launcher install libvirt'",
            )
        record = self._match(request)
        if record is None:
            return api.MachineEventAnswer()
        async with self._one_at_a_time:
            # guard: a broker that ends prepares no domain
            if self._ending:
                raise RefusedError("this broker is shutting down")
            if request.event == "prepare":
                await self._prepare(record, request)
            elif request.event == "started":
                await self._started(record, request)
            else:
                await self._drop(record.name)
        return api.MachineEventAnswer(sandbox=record.name)

    async def end(self) -> None:
        """End the vsock helpers of domains that were prepared and have not started.

        Such a domain starts without a lease, as it does where no broker runs.
        """
        async with self._one_at_a_time:
            self._ending = True
            for name in list(self._expected):
                await self._drop(name)

    def _match(self, request: api.MachineEventRequest) -> Record | None:
        """Return the record of a domain; refuse a domain that contradicts it."""
        names = {request.name, request.uuid}
        found = [r for r in self._records().records.values() if _domain(r) in names]
        if len(found) > 1:
            listed = ", ".join(record.name for record in found)
            raise RefusedError(
                f"more than one record names the domain '{_shown(request)}': {listed}",
                hint="keep libvirt in [peer] of only one of these records",
            )
        # guard: a domain's description chooses no sandbox
        if request.record is not None and [r.name for r in found] != [request.record]:
            name = take_sandbox_name(request.record)
            raise RefusedError(
                f"domain '{_shown(request)}' names the sandbox '{name}', but this host has no record '{name}' that names the domain",
                hint=f"add [peer] libvirt = \"{_shown(request)}\" to the record '{name}'",
            )
        return found[0] if found else None

    def sandbox_of(self, request: api.MachineEventRequest) -> str:
        """The sandbox that a domain would be; empty without a record of it."""
        names = {request.name, request.uuid}
        found = [r for r in self._records().records.values() if _domain(r) in names]
        return found[0].name if found else ""

    # -- steps -----------------------------------------------------------------

    async def _prepare(self, record: Record, request: api.MachineEventRequest) -> None:
        """Prepare a lease for a domain that starts: its backend and expected state.

        Starts these helpers and writes their state.
        """
        require_parts(record)
        # guard: one domain at a time is a sandbox
        if any(t.lease.sandbox == record.name for t in self._host.active_leases()):
            raise RefusedError(
                f"cannot lease domain '{_shown(request)}': '{record.name}' is already running",
                hint="shut down the other domain of this record first",
            )
        await self._drop(record.name)
        expected = _Expected()
        if request.launcher == LIBVIRT_LXC:
            # Its XML mounts it.
            make_directory(libvirt_sockets(self._paths, record.name))
        else:
            await self._start_helpers(record, request, expected)
        self._expected[record.name] = expected

    async def _start_helpers(
        self, record: Record, request: api.MachineEventRequest, expected: _Expected
    ) -> None:
        """Start what serves a domain that starts: its vsock and its folders' places."""
        folders = wanted_places(self._paths, record.name, request.virtiofs or {})
        try:
            if request.vhost_user is not None:
                wanted = Path(request.vhost_user)
                expected.backend = await self._start_backend(record, wanted)
            expected.folder_servers = await start_places(folders)
            if expected.backend is not None or folders:
                # A broker that is killed must not leave them to themselves.
                self._write(record.name, None, expected, None)
        except BaseException:
            await self._end(record.name, expected)
            raise

    async def _start_backend(self, record: Record, wanted: Path) -> Tracked:
        """Start vhost-device-vsock for a domain at the wanted socket."""
        # Late: most hosts have the kernel's vsock.
        from broker.host.vmm.hosttools import find_vhost_device_vsock

        directory = self._directory(record.name)
        path = directory / BACKEND_SOCKET
        if wanted != path:
            domain = _domain(record)
            raise RefusedError(
                f"the vsock socket of domain '{domain}' is {wanted}; it must be {path}",
                hint=f"to correct the domain, run 'brokerctl launcher prepare {domain}'",
            )
        tool = find_vhost_device_vsock(self._paths)
        if tool is None:
            raise SetupError(
                f"{HELPER} is not installed",
                hint="to download it, run 'brokerctl link vsock'",
            )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        backend = await spawn_backend(tool, directory, draw_cid())
        try:
            await wait_listening(path, backend)
        except BaseException:
            await backend.end(0)
            backend.close()
            raise
        return backend

    async def _started(self, record: Record, request: api.MachineEventRequest) -> None:
        """Lease a domain that has started.  Raises RefusedError.

        Also writes the domain's state, from which the next broker adopts it.
        """
        if request.leader is None:
            raise RefusedError("the hook reported a started domain without its process")
        for held in self._host.active_leases():
            if held.lease.sandbox == record.name:
                if held.machine.facts.pid == request.leader:
                    return  # libvirtd was restarted under it
                raise RefusedError(
                    f"cannot lease domain '{_shown(request)}': '{record.name}' is already running"
                )
        expected = self._expected.pop(record.name, None) or _Expected()
        backend = expected.backend
        try:
            held_machine = HeldMachine(
                [request.leader, *([backend.pid] if backend else [])]
            )
            try:
                machine = await self._machine(record, request, held_machine, expected)
                pidfd = held_machine.pidfd(request.leader)
                leader = identity_of(request.leader, pidfd)
            except BaseException:
                held_machine.close()
                raise
        except BaseException:
            await self._end(record.name, expected)
            raise
        # It owns the helpers and the directory from here on.
        await self._host.admit(
            SandboxName(record.name), SandboxName(record.name), machine
        )
        try:
            self._write(record.name, leader, expected, request.cid)
        except OSError as error:
            raise UpstreamError(
                f"cannot save the lease of '{record.name}', so it ends with this broker: {error}"
            ) from error

    async def _machine(
        self,
        record: Record,
        request: api.MachineEventRequest,
        held: HeldMachine,
        expected: _Expected,
    ) -> ForeignMachine:
        """Build the machine of a started domain or container."""
        assert request.leader is not None
        if request.launcher == LIBVIRT_LXC:
            state = self._directory(record.name)
            return libvirt_container(
                record.name, self._paths, held, request.leader, state
            )
        _require_uuid(request.leader, request.uuid)
        directory, backend = self._directory(record.name), expected.backend
        claim: Claim
        if backend is not None:
            base = directory / VSOCK_DIRECTORY / UDS_NAME
            connectors = (c for c in held.connectors() if c.pid == backend.pid)
            claim = HybridClaim(str(base), frozenset(connectors))
        elif request.cid is not None:
            await self._listen_vsock()
            namespace = credentials.network_namespace()
            claim = VsockClaim(namespace, take_cid(request.cid), request.leader)
        else:
            raise RefusedError(
                f"domain '{_shown(request)}' has no vsock device",
                hint=f"to add a vsock device, run 'brokerctl launcher prepare {_shown(request)}'",
            )
        expected.folder_servers = await served_places(
            expected.folder_servers, request.leader
        )
        return LibvirtMachine(
            claim,
            held,
            request.leader,
            directory=directory,
            backend=backend,
            folder_servers=expected.folder_servers,
        )

    async def _drop(self, name: str) -> None:
        expected = self._expected.pop(name, None)
        if expected is not None:
            await self._end(name, expected)

    async def _end(self, name: str, expected: _Expected) -> None:
        """End the helpers of a domain that has no lease."""
        backend, servers = expected.backend, expected.folder_servers
        if backend is None and not servers:
            return
        if backend is not None:
            await backend.end(0)
            backend.close()
        await end_places(servers)
        await remove_aside(remove_tree, self._directory(name))

    # -- a later broker ----------------------------------------------------------

    def _directory(self, name: str) -> Path:
        return self._paths.runtime / "libvirt" / name

    def _write(
        self,
        name: str,
        leader: ProcessIdentity | None,
        helpers: _Expected,
        cid: int | None,
    ) -> None:
        """Write the domain's state, by which a later broker adopts it."""
        directory = self._directory(name)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        helper = None if helpers.backend is None else helpers.backend.identity
        servers = {n: one.identity for n, one in helpers.folder_servers.items()}
        state = _State(boot_id(), name, leader, helper, cid, servers)
        # Whole, or the last one: the disk may be full, or we be killed.
        replace_file(directory / _STATE, msgspec.json.encode(state))

    async def adopt(self) -> list[str]:
        """Lease again domains that outlived an earlier broker; return warnings.

        Those that have not started yet are expected again.
        """
        warnings: list[str] = []
        for directory in sorted((self._paths.runtime / "libvirt").glob("*/")):
            try:
                await self._adopt(directory)
            except (VitrailError, OSError, ValueError, RecursionError) as error:
                warnings.append(f"cannot lease {directory.name} again: {error}")
                await remove_aside(remove_tree, directory)
        return warnings

    async def _adopt(self, directory: Path) -> None:
        """Adopt a domain of an earlier broker, or end its helper."""
        data = (directory / _STATE).read_bytes()[: limits.VM_STATE_BYTES]
        state = msgspec.json.decode(data, type=_State)
        record = self._records().records.get(state.record)
        helpers, leader = _living(state)
        helper, servers = helpers.backend, helpers.folder_servers
        waits = state.leader is None
        if (
            record is None
            or _domain(record) is None
            or ((helper or servers or None) if waits else leader) is None
        ):
            await self._end(directory.name, helpers)
            raise RefusedError("its domain or its record no longer exists")
        if leader is None:
            self._expected[record.name] = helpers
            return
        pid = leader.pid
        held = _hold_living(leader, helper)
        name = SandboxName(record.name)
        if state.backend is None and state.cid is None:
            container = libvirt_container(name, self._paths, held, pid, directory)
            await self._host.admit(name, name, container)
            return
        claim: Claim
        if helper is not None:
            base = directory / VSOCK_DIRECTORY / UDS_NAME
            connectors = (c for c in held.connectors() if c.pid == helper.pid)
            claim = HybridClaim(str(base), frozenset(connectors))
        else:
            await self._listen_vsock()
            claim = VsockClaim(
                credentials.network_namespace(), take_cid(state.cid or 0), pid
            )
        machine = LibvirtMachine(
            claim,
            held,
            pid,
            directory=directory,
            backend=helper,
            folder_servers=servers,
        )
        await self._host.admit(name, name, machine)


def _living(state: _State) -> tuple[_Expected, Tracked | None]:
    """Return the processes of a domain that still live: its helpers and its leader."""
    if state.boot != boot_id():
        return _Expected(), None
    helper = None if state.backend is None else find(HELPER, state.backend)
    leader = None if state.leader is None else find("its leader", state.leader)
    return _Expected(helper, living_places(state.folder_servers)), leader


def _hold_living(leader: Tracked, helper: Tracked | None) -> HeldMachine:
    """Hold a domain's processes by pidfd; closes ``leader``.  Raises RefusedError.

    A number is opened once more: it is the same process's while that has not ended.
    """
    try:
        held = HeldMachine([leader.pid, *([helper.pid] if helper else [])])
        # guard: a domain's leader has not ended when it is held
        if leader.ended or (helper is not None and helper.ended):
            held.close()
            raise RefusedError("its domain has ended")
        return held
    finally:
        leader.close()


def _shown(request: api.MachineEventRequest) -> str:
    """The domain's name for messages: a guest's owner chose it."""
    return printable(request.name, 100)


def _domain(record: Record) -> str | None:
    """Return the libvirt domain of a record, if it has one."""
    launch = record.host.launch
    if isinstance(launch, ThrowawayVm):
        return launch.domain(record.name)
    if isinstance(launch, External) and isinstance(launch.peer, LibvirtPeer):
        return launch.peer.domain
    return None


def _require_uuid(pid: int, uuid: str) -> None:
    """Refuse a process that is not the QEMU of the domain with this UUID.

    The caller holds its pidfd.  libvirt's pid file may be an old one.
    """
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    # guard: QEMU's own command line names the domain
    if not any(
        word == b"-uuid" and following == uuid.encode()
        for word, following in itertools.pairwise(words)
    ):
        raise RefusedError(
            f"process {pid} is not the QEMU of domain {printable(uuid, 60)}"
        )
