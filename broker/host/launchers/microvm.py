"""Our own launcher: micro VMs as machines that a host can lease.

Opening one finds its image and tools, starts it paused, and makes the doors
when its vsock backend is up; ``adopt`` takes over those that outlived a
broker that was killed.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import trio

from broker.authority.audit.event_log import EventLog
from broker.core.errors import RefusedError, SetupError, UpstreamError, VitrailError
from broker.core.launch_changes import NO_CHANGES, LaunchChanges
from broker.core.names import SandboxName, take_sandbox_name
from broker.core.paths import Paths
from broker.core.stderr_log import log_exception, run_isolated
from broker.host.launchers.microvm_machine import MicroVmMachine, remove_directory
from broker.host.required_parts import require_parts
from broker.ipc.audit import schema
from broker.ipc.in_thread import in_thread
from policy.records.model import (
    LibvirtPeer,
    MicroVM,
    Record,
    State,
    is_of_others,
)
from policy.records.places import folder_places

if TYPE_CHECKING:
    from broker.host.homes.home_room import HomeRooms
    from broker.host.images.store import Image
    from broker.host.network.switch.switches import SwitchSeat
    from broker.host.places import FindSeats
    from broker.host.vmm.launcher import Tools
    from broker.host.vmm.parent.request import StartedVm
    from broker.host.vmm.parent.starting import Starter
    from broker.host.vmm.qemu_arguments import HomeDisk, VmSpec
    from broker.host.vmm.running import Vm
    from broker.net.peers.launch_secret import LaunchSecret

ListenVsock = Callable[[], Awaitable[bool]]
"""Listens on the AF_VSOCK ports; returns whether also on those below 1024."""
FindTools: TypeAlias = Callable[["Image", Callable[[str], None]], Awaitable["Tools"]]
_RECORD_FILE = "record"


def _changed(launch: MicroVM, changes: LaunchChanges) -> MicroVM:
    """Return a record's launch with the changes for one start applied.

    Raises RefusedError if they are more than the record has.
    """
    changes.refuse_more(
        memory_mib=launch.memory_mib, cpus=launch.cpus, network=launch.network
    )
    return msgspec.structs.replace(
        launch,
        memory_mib=changes.memory_mib or launch.memory_mib,
        cpus=changes.cpus or launch.cpus,
        network=changes.network or launch.network,
        image=changes.image or launch.image,
    )


_Adopted: TypeAlias = tuple[SandboxName, SandboxName, MicroVmMachine]
"""Sandbox, record and machine."""


class MicroVms:
    """Starts micro VMs of records and adopts those of an earlier broker."""

    def __init__(
        self,
        *,
        paths: Paths,
        record: Callable[[SandboxName], Record | None],
        find_tools: FindTools,
        listen_vsock: ListenVsock,
        log: EventLog,
        seats: FindSeats | None = None,
    ) -> None:
        self._listen_vsock, self._seats = listen_vsock, seats
        self._paths = paths
        self._record = record
        self._find_tools = find_tools
        self._log = log
        self._nursery: trio.Nursery | None = None
        self._rooms: HomeRooms | None = None
        self.warnings: list[str] = []
        self._launch_warnings: dict[str, dict[str, str]] = {}
        """Of running machines: warnings by their subject."""
        self.alarm: Callable[[str, str], None] = lambda *_: None
        """Notifies the user: a title, and a text."""
        self.stopped: Callable[[SandboxName, str], Awaitable[None]] | None = None
        """Called when a machine was stopped for a reason, and with "" when it runs."""
        self.starter: Starter | None = None

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the tasks that watch micro VMs until cancelled; the machines run on."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            if self.starter is not None:
                self.starter.close()

    def waiting(self) -> tuple[tuple[str, str, int], ...]:
        """(record, role, pid) of the processes of machines that wait for a start."""
        pool = self.starter.pool if self.starter is not None else None
        return () if pool is None else pool.processes

    async def open(
        self,
        sandbox: SandboxName,
        record: SandboxName,
        closed: frozenset[int],
        progress: Callable[[str], None],
        changes: LaunchChanges = NO_CHANGES,
    ) -> MicroVmMachine:
        """Start the micro VM of a record, paused; with ``changes`` within the record.

        Raises RefusedError without such a record, SetupError or UpstreamError
        when it cannot be started; then nothing of it is left.
        """
        wanted, recorded = self._wanted(record)
        require_parts(wanted)
        # Late: a host that only has leases of others' machines needs none of it.
        from broker.core.files.sandbox_logs import KEPT, prune_logs
        from broker.host.images.launch_files import host_settings
        from broker.host.images.store import find_image
        from broker.host.images.vmlinux import boot_kernel

        launch = _changed(recorded, changes)
        image = find_image(self._paths, launch.image)
        tools = await self._find_tools(image, progress)
        secret, settings = await self._launch_secret(tools)
        directory = self._paths.sandbox(sandbox)
        logs = self._paths.logs(sandbox).parent
        # guard: many files that a viewer left among logs hold up no host
        await in_thread(prune_logs, logs, KEPT, self._running)
        await self._log.require(
            schema.SandboxStart(sandbox=sandbox, record=record, image=image.name)
        )
        async with self._undone_on_failure(sandbox, directory) as undo:
            with ExitStack() as held:
                home = await self._home(sandbox, wanted.host.state, held)
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                files = await host_settings(launch.host_files)
                find = self._seats if changes.network != "none" else None
                seats = () if find is None else find(sandbox, wanted, undo)
                spec = self._spec(
                    sandbox,
                    wanted,
                    launch,
                    kernel=await boot_kernel(
                        image.kernel, tools.accel, self._paths.cache
                    ),
                    image=image,
                    initrd=image.write_initrd(
                        directory,
                        {**settings, **files},
                        folders=folder_places(wanted) > 0,
                        network=launch.network != "none" or bool(seats),
                        shared_image=launch.shared_image,
                        router=launch.provides_network,
                        arena=launch.pixel_arena,
                        gpu=launch.gpu == "render",
                    ),
                    home=home,
                    seats=seats,
                )
                started = await self._start(
                    wanted, image, spec, tools, closed, files=files
                )
                undo.push_async_callback(started.vm.close)
            await self._log.note(
                schema.SandboxMachine(
                    sandbox=sandbox, how=schema.Start(started.how), reason=started.why
                )
            )
            if started.vm.uds is not None:
                # A machine that shares memory: its sockets are in our directory, as
                # those of vhost-device-vsock, and its guest has no vsock device.
                secret = None
            if secret is not None:
                secret.write(directory)
            # Last: a machine is adopted by this file, and so only a whole one.
            (directory / _RECORD_FILE).write_text(record)
        disk = None if home is None else home.path
        return self._machine(
            sandbox,
            started.vm,
            image,
            secret,
            disk=disk,
            seats=seats,
            keep_logs=wanted.host.keep_logs,
        )

    def _machine(
        self,
        sandbox: SandboxName,
        vm: Vm,
        image: Image | None,
        secret: LaunchSecret | None,
        *,
        disk: Path | None,
        seats: tuple[SwitchSeat, ...] = (),
        keep_logs: bool,
    ) -> MicroVmMachine:
        """Return a machine, and watch the room for ``disk``, which holds its home."""
        assert self._nursery is not None
        # guard: warnings of a machine end with it
        forget = partial(self._launch_warnings.pop, sandbox, None)
        machine = MicroVmMachine(
            sandbox,
            vm,
            self._log,
            image,
            secret,
            seats=seats,
            on_close=forget,
            keep_logs=keep_logs,
        )
        if disk is not None:
            # Late: a host without homes needs none of it.
            from broker.host.homes.home_room import HomeRooms

            self._rooms = self._rooms or HomeRooms()
            self._nursery.start_soon(
                self._rooms.watch, machine, disk, partial(self._report_room, sandbox)
            )
        return machine

    def _report_room(self, sandbox: SandboxName, shortage: str) -> None:
        """Report that a machine is stopped for want of room, or runs again ("")."""
        assert self._nursery is not None
        if self.stopped is not None:
            self._nursery.start_soon(run_isolated, self.stopped, sandbox, shortage)
        if shortage:
            self._lost(sandbox, shortage, "room")
            return
        self._launch_warnings.get(sandbox, {}).pop("room", None)
        self.alarm(f"Vitrail: {sandbox}", "there is room for its home: it runs again")

    def current_warnings(self) -> list[str]:
        """Return the warnings of running machines, and of what outlives them."""
        launches = self._launch_warnings.items()
        return [
            *self.warnings[-10:],
            *(f"{name}: {text}" for name, texts in launches for text in texts.values()),
        ]

    def _wanted(self, record: SandboxName) -> tuple[Record, MicroVM]:
        """Return a record and its micro VM.  Raises RefusedError for another kind."""
        wanted = self._record(record)
        if wanted is None:
            raise RefusedError(
                f"cannot start '{record}': the host has no record of this name",
                hint=f'add {record}.toml with [launch] kind = "microvm" to sandboxes.d on the host',
            )
        launch = wanted.host.launch
        if not isinstance(launch, MicroVM):
            hint = "start it by its own launcher, which docs/launchers describes"
            if launch.kind.holds:
                hint = f"start it by 'brokerctl run {record}' on the machine with your desktop"
            elif is_of_others(launch) and isinstance(launch.peer, LibvirtPeer):
                domain = shlex.quote(launch.peer.domain)
                hint = (
                    f"start its domain: 'virsh start {domain}', or 'virsh -c "
                    f"qemu:///system start {domain}'"
                )
            raise RefusedError(
                f"cannot start '{record}': the broker starts only micro VMs, and this is not one",
                hint=hint,
            )
        return wanted, launch

    @asynccontextmanager
    async def _undone_on_failure(
        self, sandbox: SandboxName, directory: Path
    ) -> AsyncGenerator[AsyncExitStack]:
        """Undo a failed start: run callbacks, remove the directory, record the failure.

        An OSError becomes an UpstreamError.  Not cancellable.
        """
        undo = AsyncExitStack()
        try:
            yield undo
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await undo.aclose()
                remove_directory(directory)
                self._launch_warnings.pop(sandbox, None)
                if isinstance(error, VitrailError | OSError):
                    failed = schema.SandboxFailed(
                        sandbox=sandbox, step="machine", reason=str(error)
                    )
                    await self._log.note(failed)
            if isinstance(error, OSError):
                raise UpstreamError(
                    f"cannot start '{sandbox}': {error.strerror or error}",
                    where=error.filename or "",
                ) from error
            raise
        undo.pop_all()

    def _spec(
        self,
        sandbox: SandboxName,
        record: Record,
        launch: MicroVM,
        *,
        image: Image,
        kernel: Path,
        initrd: Path,
        home: HomeDisk | None,
        seats: tuple[SwitchSeat, ...],
    ) -> VmSpec:
        """Build the specification of a micro VM."""
        from broker.host.vmm.qemu_arguments import Network, VmSpec

        return VmSpec(
            name=sandbox,
            kernel=kernel,
            initrd=initrd,
            root=image.root,
            directory=self._paths.sandbox(sandbox),
            logs=self._paths.logs(sandbox),
            memory_mib=launch.memory_mib,
            cpus=launch.cpus,
            network=Network.of(launch.network),
            router=launch.provides_network,
            seats=seats,
            disposable=record.host.sandbox_class == "disposable",
            home=home,
            folders=folder_places(record),
            disks=launch.disks,
            huge_pages=launch.huge_pages,
            shared_image_bytes=image.shared_bytes() if launch.shared_image else 0,
            arena_bytes=image.arena_bytes() if launch.pixel_arena else 0,
            gpu=launch.gpu == "render",
        )

    async def _launch_secret(
        self, tools: Tools
    ) -> tuple[LaunchSecret | None, dict[str, str]]:
        """Return the secret of a launch, and what the guest's agent gets of it.

        Hybrid sockets are in a directory that only we may write to, so no
        other program can listen there; AF_VSOCK ports belong to the first program that
        takes them.  Raises SetupError when that was another one.
        """
        if tools.hybrid:
            return None, {}
        # guard: no launch before the ports are ours
        privileged = await self._listen_vsock()
        from broker.host.images.store import launch_settings
        from broker.net.peers.launch_secret import draw_secret

        secret = draw_secret()
        return secret, launch_settings(secret.value, privileged=privileged)

    async def _start(
        self,
        record: Record,
        image: Image,
        spec: VmSpec,
        tools: Tools,
        closed: frozenset[int],
        *,
        files: Mapping[str, str],
    ) -> StartedVm:
        """Start a machine, paused: a copy of a booted one where that is possible."""
        # Late: a host that starts no machines needs none of it.
        from broker.host.images.launch_files import fingerprint
        from broker.host.vmm.parent.request import StartRequest
        from broker.host.vmm.parent.starting import Starter

        assert self._nursery is not None
        assert isinstance(record.host.launch, MicroVM)

        on_loss = partial(self._lost, spec.name)
        if self.starter is None:
            self.starter = Starter(
                self._paths.parents,
                self._nursery,
                self.warnings.append,
                self._paths.standbys,
            )
        request = StartRequest(
            record=record.name,
            mode=record.host.launch.fork,
            # A parent has the host's files in its memory.
            image=image.manifest.digest + fingerprint(files),
            write_initrd=partial(
                image.write_initrd,
                settings=files,
                arena=record.host.launch.pixel_arena,
            ),
            warm=record.host.launch.command,
            spec=spec,
            tools=tools,
            standby_mib=record.host.launch.standby_mib,
        )
        if request.standby_mib and (reason := self.starter.never(request)):
            # guard: the user is informed of a standby that does nothing
            self._warn(spec.name, f"launch.standby has no effect: {reason}")
        return await self.starter.start(request, quarantine=closed, on_loss=on_loss)

    def _warn(self, sandbox: str, message: str, subject: str = "") -> None:
        """Show a warning about a machine in the status, while it runs."""
        self._launch_warnings.setdefault(sandbox, {})[subject or message] = message

    def _lost(self, sandbox: str, what: str, subject: str = "") -> None:
        """Report in status, log and desktop what a machine lost, while it runs."""
        assert self._nursery is not None
        self._warn(sandbox, what, subject)
        self.alarm(f"Vitrail: {sandbox}", what)
        # guard: what a machine lost is recorded
        failed = schema.SandboxFailed(sandbox=sandbox, step="running", reason=what)
        self._nursery.start_soon(self._log.note, failed)

    async def _home(
        self, sandbox: SandboxName, state: State | None, held: ExitStack
    ) -> HomeDisk | None:
        """Open the sandbox's home disk; None if the record keeps nothing."""
        if state is None or not state.keep:
            return None
        from broker.host.homes.home import open_home

        return await open_home(
            self._paths.homes,
            sandbox,
            state.keep,
            state.size,
            held,
            encrypted=state.encrypted,
        )

    def _running(self) -> frozenset[str]:
        """Names of the sandboxes that have a runtime directory."""
        directories = self._paths.sandbox("x").parent
        return frozenset(path.name for path in directories.glob("*/"))

    async def adopt(self) -> list[_Adopted]:
        """Adopt the machines of a killed broker; end and remove what cannot be adopted.

        Returns (sandbox, record, machine) of those that live and whose record
        still allows them; everything else of theirs is ended and removed.
        """
        assert self._nursery is not None
        by_directory: dict[Path, _Adopted] = {}
        await self._clean_standbys()

        async def adopt(directory: Path) -> None:
            try:
                adopted = await self._adopt_one(directory)
            # guard: one machine that is left keeps no broker from starting
            except Exception as error:  # noqa: BLE001 -- as in HostPart.adopt
                if not isinstance(error, VitrailError | OSError):
                    log_exception(error)
                what = f"cannot adopt or end the machine of {directory}: {error}"
                # guard: a machine that is neither adopted nor ended is recorded
                self._lost(directory.name, what)
                return
            if adopted is not None:
                by_directory[directory] = adopted

        async with trio.open_nursery() as nursery:
            for directory in sorted(self._paths.sandbox("x").parent.glob("*/")):
                # guard: a machine that is silent delays no other's adoption
                nursery.start_soon(adopt, directory)
        return [by_directory[directory] for directory in sorted(by_directory)]

    async def _clean_standbys(self) -> None:
        """End the standby machines of a killed broker."""
        if not self._paths.standbys.exists():
            return
        from broker.host.vmm.parent.standby import clean_standbys

        try:
            await clean_standbys(self._paths.standbys)
        except (VitrailError, OSError) as error:
            self.warnings.append(f"cannot adopt a running machine: {error}")

    async def _adopt_one(self, directory: Path) -> _Adopted | None:
        """Adopt a machine of an earlier broker; end it and its files if that fails."""
        from broker.host.vmm.launcher import clean_leftovers

        sandbox = take_sandbox_name(directory.name)
        try:
            return await self._take_over(sandbox, directory)
        # guard: a machine that cannot be adopted is ended
        except Exception as error:  # noqa: BLE001 -- whatever it is
            if not isinstance(error, OSError | VitrailError):
                log_exception(error)
            reason = str(error)
        ended = await clean_leftovers(directory)
        remove_directory(directory)
        await self._log.note(
            schema.SandboxStop(
                sandbox=sandbox,
                outcome="cleaned up",
                reason=f"left over from an earlier broker: {reason}",
                detail={"processes_ended": ended},
            )
        )
        return None

    async def _take_over(self, sandbox: SandboxName, directory: Path) -> _Adopted:
        """Connect to a running machine by the files of its directory."""
        from broker.host.homes.store import HomeStore
        from broker.host.vmm.launcher import adopt_vm
        from broker.net.peers.launch_secret import read_secret

        assert self._nursery is not None
        try:
            text = (directory / _RECORD_FILE).read_bytes()
        except FileNotFoundError:
            raise SetupError(f"{directory} does not name its record") from None
        record = take_sandbox_name(text.decode("utf-8", "replace"))
        if (current := self._record(record)) is None:
            raise SetupError(f"the record '{record}' no longer exists")
        secret = read_secret(directory)
        vm = await adopt_vm(
            directory,
            nursery=self._nursery,
            on_loss=partial(self._lost, sandbox),
        )
        if vm is None:
            raise UpstreamError("processes of the machine have ended")
        disk = await in_thread(HomeStore(self._paths.homes).disk, sandbox)
        keep_logs = current.host.keep_logs
        machine = self._machine(
            sandbox, vm, None, secret, disk=disk, keep_logs=keep_logs
        )
        return sandbox, record, machine
