"""Sandboxes that another program starts, in the steps of ``launch.interface``.

The program is a hook of a container runtime or ``brokerctl run``; it prepares,
starts the first process held back, binds, and lets it run.  The directory of the
sockets is ours and is mounted into the sandbox.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from broker.authority.audit.event_log import EventLog
from broker.core import limits
from broker.core.errors import RefusedError, SetupError, UpstreamError, VitrailError
from broker.core.names import SandboxName, take_sandbox_name
from broker.core.paths import Paths
from broker.core.services import AUDIO
from broker.core.stderr_log import log_stderr
from broker.helpers.process.identity import ProcessIdentity, boot_id, identity_of
from broker.host.foreign_machine import HeldMachine
from broker.host.host_status import lease_status
from broker.host.launched_machine import LaunchedMachine, discard, remove
from broker.host.launchers.bubblewrap.answer import box_answer
from broker.host.launchers.interface import SOCKETS, Prepared, read_state, write_state
from broker.host.launchers.made_records import remove_made, write_made
from broker.host.launchers.registry import CLAIMS, Bound
from broker.host.launchers.session_bus import (
    CALL_TOOL,
    SERVICES,
    TOOL,
    session_files,
)
from broker.host.lease_requests import asked_name, sandbox_name
from broker.host.network.switch.switches import Switches
from broker.host.processes.tracked import find
from broker.host.required_parts import require_parts
from broker.host.role import ActiveLease, HostRole
from broker.host_and_viewer.find_record import find_record
from broker.ipc.audit import schema
from broker.ipc.control import launch_methods as methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.control.types import launches as api
from broker.ipc.control.types.base import Nothing
from broker.ipc.control.types.leases import LeaseItem
from broker.ipc.in_thread import in_thread
from broker.net.peers.identity import ContainerClaim
from policy.records.model import Record, RecordSet
from policy.records.places import is_held, root_tree
from shims.bundle import call_tool, files_tool

_TOOL_START = b"#!/usr/bin/env -S python3 -I -S -B\n"
_LOOK_SECONDS = 5.0
"""How often launches that were never bound are looked for."""
_SHARED = {"net": "network", "ipc": "IPC"}
"""Kinds of namespaces in which programs meet, with their names."""


@dataclass(eq=False)
class Launches:
    """Launches that another program starts, by the steps of ``launchers.interface``."""

    paths: Paths
    host: HostRole
    log: EventLog
    records: Callable[[], RecordSet]
    reload: Callable[[], Awaitable[None]]
    switches: Switches = field(default_factory=Switches)
    warnings: list[str] = field(default_factory=list)
    _pending: dict[str, Prepared] = field(default_factory=dict)

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Remove expired launches (not bound in time) until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(_LOOK_SECONDS)
            self.expire(time.time())

    def expire(self, now: float) -> None:
        """Remove launches prepared longer ago than LAUNCH_BIND_SECONDS.

        Deletes their directories.
        """
        for state in list(self._pending.values()):
            # A clock that was set back must not keep it longer.
            # guard: a launch that is not bound is given up
            if not 0 <= now - state.since <= limits.LAUNCH_BIND_SECONDS:
                del self._pending[state.id]
                discard(state)

    # -- prepare ---------------------------------------------------------------

    async def prepare(
        self,
        record: str,
        sandbox: str | None,
        *,
        ours: bool,
        text: str | None = None,
        by_file: bool = False,
    ) -> Prepared:
        """Prepare a launch: choose the sandbox's name and create its directory.

        Reads the records again; writes the guest's programs to the directory.  ``text`` is the record itself, of a program without one; it is written to a file.
        A refusal is recorded in the audit log.  Raises RefusedError
        when there is no such record, it is not of this launcher's kind, or the sandbox
        runs already.
        """
        await self.reload()
        name = take_sandbox_name(record)
        made: Path | None = None
        try:
            if text is not None:
                self._require_unused(name)
                made = write_made(self.paths, self.records(), name, text)
                await self.reload()
            found = self._record(name, by_file=by_file)
            # guard: namespaces count as closed where our launcher closes them
            closed = ours and not getattr(found.host.launch, "user_namespaces", True)
            sandbox = self._name(found, sandbox)
            state = self._make(sandbox, name, ours=ours, closed=closed, made=made)
        except BaseException as error:
            if made is not None:
                made.unlink(missing_ok=True)
            if isinstance(error, VitrailError):
                await self._refused(name, error)
            raise
        self._pending[state.id] = state
        # Records that 'brokerctl run' makes for a program start without the tool.
        temporary = found.source.is_relative_to(self.paths.runtime)
        if found.host.launch.kind.boundary and not temporary:
            await self._add_tool(state)
        return state

    def _require_unused(self, record: SandboxName) -> None:
        """Refuse a record that is sent while a launch of one with its name lives."""
        used = {state.record for state in self._pending.values()}
        used |= {active.lease.record for active in self.host.active_leases()}
        # guard: a record that is sent replaces none of a running program
        if record in used:
            raise RefusedError(f"cannot start '{record}': it is already running")

    async def _add_tool(self, state: Prepared) -> None:
        """Add the program for files, links and calls, which python3 in it can run.

        With it come the services that its session bus starts.
        """
        sources = await in_thread(lambda: (files_tool(), call_tool()))
        try:
            for name, source in zip((TOOL, CALL_TOOL), sources, strict=True):
                (state.sockets / name).write_bytes(_TOOL_START + source)
                (state.sockets / name).chmod(0o755)
            (state.sockets / SERVICES).mkdir()
            for name, text in session_files().items():
                (state.sockets / name).write_text(text)
                (state.sockets / name).chmod(0o644)
            (state.sockets / SERVICES).chmod(0o755)
        except OSError as error:  # its windows and sound do not need it
            self.warnings.append(
                f"cannot install {TOOL} in {state.sandbox}: {error.strerror}"
            )

    async def box(self, record: str) -> Record | None:
        """Read records again and return one; None if it is missing or has a mistake."""
        await self.reload()
        records = self.records()
        found = records.records.get(record)
        if found is None or record in records.broken:
            return None
        return found

    def open_files(self, state: Prepared) -> int | None:
        """Files that a launch's programs may have open; None: a label sets no limit."""
        launch = find_record(self.records(), SandboxName(state.record)).host.launch
        return launch.open_files if is_held(launch) else None

    def _record(self, name: SandboxName, *, by_file: bool = False) -> Record:
        """Find the record of a container or box.  Raises RefusedError."""
        record = find_record(self.records(), name)
        require_parts(record)
        if record.host.launch.kind.name not in CLAIMS:
            raise RefusedError(
                f"cannot prepare a container or box of '{name}': its kind is {record.host.launch.kind.name}",
                where=record.where("launch.kind"),
                hint=f"set kind in [launch] to one of {', '.join(CLAIMS)}",
            )
        # guard: a file names no record that does not permit it
        if by_file and not getattr(record.host.launch, "by_files", False):
            raise RefusedError(
                f"a file for Podman names the record '{name}', which does not permit it",
                where=record.where("launch.by_files"),
                hint="if you trust the files that you play, set by_files = true in [launch]",
            )
        return record

    def _name(self, record: Record, asked: str | None) -> SandboxName:
        """Return the sandbox's name: as asked, or the next free one."""
        running = frozenset(t.lease.sandbox for t in self.host.active_leases())
        if asked is not None:
            name = asked_name(record, asked, self.records())
        else:
            waiting = {SandboxName(state.sandbox) for state in self._pending.values()}
            disposable = record.host.sandbox_class == "disposable"
            taken = running | waiting if disposable else running
            name = sandbox_name(record, taken, self.records())
        if name in running:
            raise RefusedError(
                f"cannot start '{name}': it is already running",
                hint=f"to stop it, run 'brokerctl stop {name}'; to run more than one at a time, use a disposable record",
            )
        return name

    def _make(
        self,
        sandbox: SandboxName,
        record: SandboxName,
        *,
        ours: bool,
        closed: bool,
        made: Path | None,
    ) -> Prepared:
        """Create the directory and state of a launch.

        Raises RefusedError beyond the limit.
        """
        # guard: pending launches have a limit
        if len(self._pending) >= limits.LAUNCHES_PENDING:
            raise RefusedError(
                f"cannot start '{sandbox}': {limits.LAUNCHES_PENDING} other sandboxes are starting",
                hint=f"try again in {limits.LAUNCH_BIND_SECONDS:.0f} s, when starts without progress have ended",
            )
        number = secrets.token_hex(6)
        directory = self._folder() / number
        state = Prepared(
            boot=boot_id(),
            id=number,
            sandbox=sandbox,
            record=record,
            directory=str(directory),
            since=time.time(),
            ours=ours,
            namespaces_closed=closed,
            made="" if made is None else str(made),
        )
        try:
            directory.mkdir(mode=0o700)
            (directory / SOCKETS).mkdir(mode=0o700)
            # $XDG_RUNTIME_DIR/pulse in a container is this directory, too.
            (directory / SOCKETS / "native").symlink_to(AUDIO)
            write_state(state)
        except OSError as error:
            remove(directory)
            raise UpstreamError(
                f"cannot create the directory of '{sandbox}': {error.strerror}",
                where=error.filename or "",
            ) from error
        return state

    def _folder(self) -> Path:
        """Return the directory of launches, which is created if it is absent."""
        folder = self.paths.runtime / "launch"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    # -- bind and end --------------------------------------------------------------

    async def bind(self, launch: str, leader: int) -> ActiveLease:
        """Lease the sandbox to its first process, which has not run anything yet.

        Raises RefusedError when the launch is unknown or too old, or the kernel does
        not tell the process apart from others.  Starts the box's network, if its record
        has one.  A refusal is recorded in the audit log, and the launch's directory is
        removed.
        """
        self.expire(time.time())
        # A second bind of the same launch is refused, also at once.
        # guard: a launch is bound once
        state = self._pending.pop(launch, None)
        if state is None:
            raise RefusedError(
                "no launch with this number is pending: it was bound, ended or timed out",
                hint=f"bind its first process once, within {limits.LAUNCH_BIND_SECONDS:.0f} s",
            )
        try:
            await self.reload()
            machine = self._machine(state, leader)
            await machine.connect(self.records(), self.switches)
        except BaseException as error:
            discard(state)
            if isinstance(error, VitrailError):
                await self._refused(SandboxName(state.sandbox), error)
            raise
        sandbox, record = SandboxName(state.sandbox), SandboxName(state.record)
        return await self.host.admit(sandbox, record, machine)

    def _machine(self, state: Prepared, leader: int) -> LaunchedMachine:
        """Build the machine of a launch's first process."""
        record = self._record(SandboxName(state.record))
        machine = HeldMachine([leader])
        try:
            launch = record.host.launch
            bound_by = Bound(state, launch, machine, leader, self.paths.runtime.parent)
            claim = CLAIMS[launch.kind.name](bound_by)
            identity = identity_of(leader, machine.pidfd(leader))
            # guard: a leader's number that is used again is not the leader
            _require_leader(state, identity)
            if isinstance(claim, ContainerClaim):
                self._refuse_shared(leader)
            bound = msgspec.structs.replace(state, leader=identity)
            write_state(bound)
        except BaseException as error:
            machine.close()
            if isinstance(error, OSError):
                raise UpstreamError(
                    f"cannot lease '{state.sandbox}' to process {leader}: {error.strerror}"
                ) from error
            raise
        return LaunchedMachine(bound, claim, machine, leader)

    def _refuse_shared(self, leader: int) -> None:
        """Raise RefusedError if a container has a network or IPC of another sandbox.

        Programs of both meet there: by /dev/shm, or by abstract sockets.
        """
        for kind in ("net", "ipc"):
            namespace = _namespace(leader, kind)
            # The session's own is the choice of the user's command line.
            if namespace in {None, _namespace(os.getpid(), kind)}:
                continue
            for active_lease in self.host.active_leases():
                first = active_lease.machine.facts.pid
                # guard: two sandboxes are in no network or IPC of one of them
                if first is not None and _namespace(first, kind) == namespace:
                    raise RefusedError(
                        f"process {leader} shares the {_SHARED[kind]} namespace of "
                        f"'{active_lease.lease.sandbox}', so the two are not separate",
                        hint="start the container without --network=container:NAME, "
                        "--ipc=container:NAME or a pod that shares them",
                    )

    async def end(self, launch: str) -> None:
        """End a launch, bound or not: remove its directory, stop its sandbox."""
        state = self._pending.pop(launch, None)
        if state is not None:
            discard(state)
        for active_lease in self.host.active_leases():
            machine = active_lease.machine
            if isinstance(machine, LaunchedMachine) and machine.state.id == launch:
                machine.over = True
                reason = "its launcher stopped it"
                await self.host.stop(active_lease.lease.id, grace=1.0, reason=reason)

    async def _refused(self, sandbox: SandboxName, error: VitrailError) -> None:
        """Record the refusal of a launch in the audit log."""
        await self.log.refused(
            schema.LeaseRefused(
                sandbox=sandbox, peer="launch", outcome="refused", reason=str(error)
            )
        )

    # -- after a crash ---------------------------------------------------------------

    async def adopt(self) -> list[tuple[SandboxName, SandboxName, LaunchedMachine]]:
        """Return the machines of launches that outlived an earlier broker.

        See ``Launcher``.
        """
        adopted: list[tuple[SandboxName, SandboxName, LaunchedMachine]] = []
        needed: set[str] = set()
        for directory in sorted(self._folder().glob("*/")):
            state: Prepared | None = None
            try:
                state = read_state(directory)
                machine = self._adopted(state)
            except EndedLaunchError as error:
                # A warning would stay in the status, and the user can do nothing.
                log_stderr(str(error))
                discard(error.state)
                continue
            except (VitrailError, OSError) as error:
                self.warnings.append(f"cannot adopt a running launch: {error}")
                remove(directory) if state is None else discard(state)
                continue
            needed.add(state.record)
            if machine is not None:
                adopted.append(
                    (
                        SandboxName(state.sandbox),
                        SandboxName(state.record),
                        machine,
                    )
                )
        remove_made(self.paths, needed)
        return adopted

    def _adopted(self, state: Prepared) -> LaunchedMachine | None:
        """Return the machine of a launch from before; None if it is not bound yet.

        Raises EndedLaunchError when it has ended, SetupError when its record is gone.
        """
        take_sandbox_name(state.sandbox)
        self._record(take_sandbox_name(state.record))
        if state.leader is None:
            self._pending[state.id] = state
            return None
        # guard: a lease is renewed for the same process only
        leader = find("leader", state.leader) if state.boot == boot_id() else None
        if leader is None:
            raise EndedLaunchError(state)
        try:
            machine = self._machine(state, leader.pid)
        finally:
            leader.close()
        machine.adopt_network()
        return machine


def _namespace(pid: int, kind: str) -> int | None:
    """Return the number of a process's namespace; None if that cannot be read."""
    try:
        return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino
    except OSError:
        return None  # it has ended, or is root's


def _require_leader(state: Prepared, identity: ProcessIdentity) -> None:
    """Refuse a process that is not the leader that the launch has been bound to."""
    if state.leader not in {None, identity}:
        raise EndedLaunchError(state)


class EndedLaunchError(SetupError):
    """A sandbox ended while no broker was running; the status does not report it."""

    def __init__(self, state: Prepared) -> None:
        super().__init__(f"{state.sandbox} ended while no broker was running")
        self.state = state


class LaunchControl:
    """The launch methods of the control socket."""

    def __init__(self, launches: Launches) -> None:
        self._launches = launches

    @serves(methods.LAUNCH_PREPARE)
    async def prepare_launch(
        self, exchange: Exchange[api.LaunchAnswer], request: api.LaunchPrepareRequest
    ) -> api.LaunchAnswer:
        """Prepare the launch of a container or box, for brokerctl."""
        del exchange
        state = await self._launches.prepare(
            request.record,
            request.sandbox,
            ours=bool(request.ours),
            text=request.text,
            by_file=bool(request.by_file),
        )
        return api.LaunchAnswer(
            id=state.id,
            sandbox=state.sandbox,
            directory=str(state.sockets),
            open_files=self._launches.open_files(state),
            close_namespaces=state.namespaces_closed,
        )

    @serves(methods.LAUNCH_BOX)
    async def box_of_record(
        self, exchange: Exchange[api.LaunchBoxAnswer], request: api.LaunchBoxRequest
    ) -> api.LaunchBoxAnswer:
        """Describe the box, for a command that does not read records itself."""
        del exchange
        record = await self._launches.box(request.record)
        records = self._launches.records().records.values()
        return box_answer(record, trees=any(map(root_tree, records)))

    @serves(methods.LAUNCH_BIND)
    async def bind_launch(
        self, exchange: Exchange[LeaseItem], request: api.LaunchBindRequest
    ) -> LeaseItem:
        """Lease a prepared launch to its sandbox's first process, for brokerctl."""
        del exchange
        active_lease = await self._launches.bind(request.id, request.leader)
        return LeaseItem(lease=lease_status(active_lease))

    @serves(methods.LAUNCH_END)
    async def end_launch(
        self, exchange: Exchange[Nothing], request: api.LaunchEndRequest
    ) -> Nothing:
        """End a launch and its lease, for brokerctl."""
        del exchange
        await self._launches.end(request.id)
        return Nothing()
