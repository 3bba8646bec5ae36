"""Micro VMs: started, adopted by a later broker, or cleaned up after.

The machine is started paused: its lease and the listeners for its
connections exist before ``cont`` lets the guest run its first instruction.
Its processes outlive this one, and ``vm.json`` lists them, so that a
broker that was restarted can take the machine over or end its remains.

The host alone runs this; brokerctl uses other modules of this package.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Container
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import trio

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.helpers.console_log import ConsoleLog
from broker.helpers.process.popen import kill_jail
from broker.helpers.process.removal import remove_aside
from broker.host.processes.ready import listen_unix
from broker.host.processes.tracked import Tracked
from broker.host.vmm.arena import make_arena
from broker.host.vmm.control import (
    CONSOLE_SOCKET,
    QMP_SOCKET,
)
from broker.host.vmm.qemu_arguments import (
    Accel,
    Network,
    VmSpec,
    Wiring,
    qemu_args,
)
from broker.host.vmm.running import Vm
from broker.host.vmm.vm_state import (
    QEMU,
    VmProcesses,
    VmState,
    find_processes,
    read_as,
    read_state,
    remove_files,
    state_of,
    write_state,
)
from broker.host.vmm.vsock_backend import (
    KernelVsock,
    StreamsProcess,
    draw_cid,
    open_kernel_vsock,
    start_hybrid_vsock,
)

if TYPE_CHECKING:
    from broker.host.network.passt import GuestNetwork


HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


@dataclass(frozen=True)
class Tools:
    """The programs of this machine, found by the caller."""

    vmm: Path
    """QEMU."""
    accel: Accel
    vhost_device_vsock: Path | None
    """None: use the kernel's /dev/vhost-vsock."""
    passt: Path | None = None
    allow_unjailed: bool = False
    """Where the jail of a VMM cannot be built, run it without one, and warn."""

    @property
    def hybrid(self) -> bool:
        """Return whether a guest's connections arrive at UNIX sockets."""
        return self.vhost_device_vsock is not None


async def start_vm(
    spec: VmSpec,
    tools: Tools,
    *,
    nursery: trio.Nursery,
    cid: int | None = None,
    quarantine: Container[int] = frozenset(),
    on_loss: Callable[[str], None] | None = None,
    make_plan: MakePlan | None = None,
) -> Vm:
    """Start a micro VM, paused, and watch it in ``nursery``.

    ``cid`` is drawn at random outside ``quarantine`` unless given.
    ``on_loss`` is called when the guest lost something it lives on without.
    ``make_plan`` starts it another way than by booting.

    Raises SetupError or UpstreamError; nothing remains then.  Starts its helpers first
    (vsock backend, network, servers of folders).
    """
    try:
        spec.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        spec.directory.chmod(0o700)
        await _refuse_running(spec)
        if spec.huge_pages:
            _require_huge_pages(spec)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(remove_aside, remove_files, spec.directory)
            plan = (make_plan or LaunchPlan)(spec, tools, undo, on_loss)
            await plan.start_helpers(cid, quarantine)
            vm = await plan.start_vmm()
            await _connect(vm, nursery)
            undo.pop_all()
        try:
            await plan.prepare(vm)
        except BaseException:
            await vm.close()
            raise
    except OSError as error:
        raise UpstreamError(f"cannot start '{spec.name}': {error}") from error
    return vm


async def _connect(vm: Vm, nursery: trio.Nursery) -> None:
    """Connect to the VMM's control; if it has ended, raise its message as the error."""
    try:
        await vm.connect(nursery)
    except UpstreamError as error:
        with trio.move_on_after(limits.VM_DRAIN_SECONDS):
            code = await vm.vmm.wait()
            from broker.host.vmm.vmm_jail import explain

            failed = UpstreamError(
                f"{vm.vmm.role} exited while starting (code {code}): {vm.vmm.words}"
            )
            raise explain(failed, vm.vmm.words) from error
        raise


async def _refuse_running(spec: VmSpec) -> None:
    """Raise SetupError when the sandbox's machine still runs."""
    state = read_state(spec.directory)
    if state is None:
        return
    found = find_processes(state)
    for process in found.all:
        process.close()
    if found.vmm is not None:
        raise SetupError(
            f"cannot start '{spec.name}': its machine is already running ({found.vmm.role}, process {found.vmm.pid})",
            hint=f"to end it, run 'kill {found.vmm.pid}'",
        )
    await clean_leftovers(spec.directory)


def _require_huge_pages(spec: VmSpec, pages: Path = HUGE_PAGES) -> None:
    """Raise SetupError where fewer are free than the machine's memory has.

    QEMU's own error is that memory cannot be mapped, without the reason.
    """
    try:
        free = int((pages / "free_hugepages").read_text(encoding="ascii"))
    except (OSError, ValueError):
        free = 0
    need = -(-spec.memory_mib // 2)
    if free < need:
        raise SetupError(
            f"cannot start '{spec.name}': it requires {need} huge pages of 2 MiB, but {free} are free",
            hint=f"increase vm.nr_hugepages by {need - free} (see sysctl(8)), or remove huge_pages from the record",
        )


MakePlan: TypeAlias = Callable[
    [VmSpec, Tools, AsyncExitStack, Callable[[str], None] | None], "LaunchPlan"
]
_SOCKETS = (QMP_SOCKET, CONSOLE_SOCKET)


class LaunchPlan:
    """A machine on its way up: started processes, and how to undo that.

    A machine that does not boot (``launch.parent``) has other words and a ``prepare``.
    """

    def __init__(
        self,
        spec: VmSpec,
        tools: Tools,
        undo: AsyncExitStack,
        on_loss: Callable[[str], None] | None,
    ) -> None:
        self._spec = spec
        self._tools = tools
        self._undo = undo
        self._on_loss = on_loss
        self._hybrid: StreamsProcess | None = None
        self._kernel: KernelVsock | None = None
        self._network: GuestNetwork | None = None
        self._state: VmState | None = None
        self._helpers: tuple[Tracked, ...] = ()
        self._folder_conns: list[socket.socket] = []
        self._arena = -1
        self._gpu: socket.socket | None = None

    async def start_helpers(self, cid: int | None, quarantine: Container[int]) -> None:
        """Start the vsock backend and the network, writing each down."""
        spec, tool = self._spec, self._tools.vhost_device_vsock
        if tool is None:
            self._kernel = open_kernel_vsock(cid, quarantine=quarantine)
            self._undo.callback(self._kernel.close)
            cid = self._kernel.cid
        elif cid is None:
            cid = draw_cid(quarantine)
        self._state = state_of(
            spec, cid=cid, hybrid=tool is not None, accel=self._tools.accel
        )
        if tool is not None:
            self._hybrid = await self.start_streams(tool, cid)
            self._undo.push_async_callback(self._hybrid.end)
            self._helpers += (self._hybrid.process,)
        if spec.network is not Network.NONE:
            # Late: most machines have no network.
            from broker.host.network.passt import start_user_network

            self._network = start_user_network(
                self._tools.passt, decided=spec.network is Network.RULES
            )
            self._undo.push_async_callback(self._network.end)
            for process in self._network.processes:
                self._write_down(process)
                self._helpers += (process,)
        for number in range(spec.folders):
            await self._start_folder(number)
        if spec.gpu:
            # Late: few machines have a GPU.
            from broker.host.gpu.gpu_renderer import start_renderer

            gpu = await start_renderer(known=self._write_down)
            self._gpu = gpu.conn
            self._stop_on_failure(gpu.process, gpu.conn)

    async def start_streams(self, tool: Path, cid: int) -> StreamsProcess:
        """Start vhost-device-vsock, which carries the guest's connections."""
        place, unjailed = self._spec.directory, self._unjailed
        known = self._write_down
        return await start_hybrid_vsock(
            tool, place, cid, unjailed=unjailed, known=known
        )

    async def _start_folder(self, number: int) -> None:
        """Start virtiofsd for one slot in which a folder can be shared later."""
        # Late: few machines have folders.
        from broker.host.folders.folder_server import start_folder_server

        directory = self._spec.directory
        server = await start_folder_server(
            number, directory, folders=self._spec.folders, known=self._write_down
        )
        self._folder_conns.append(server.conn)
        self._stop_on_failure(server.process, server.conn)

    def _stop_on_failure(self, helper: Tracked, conn: socket.socket) -> None:
        self._undo.callback(conn.close)
        self._undo.callback(helper.close)
        self._undo.push_async_callback(helper.end, 0)
        self._helpers += (helper,)

    def _write_down(self, process: Tracked) -> None:
        """Write a process to the state file, in place of an earlier one of its role."""
        assert self._state is not None
        if process.role == QEMU:
            self._state = msgspec.structs.replace(self._state, vmm=process.identity)
        else:
            helpers = {**self._state.helpers, process.role: process.identity}
            self._state = msgspec.structs.replace(self._state, helpers=helpers)
        write_state(self._spec.directory, self._state)

    @property
    def _unjailed(self) -> Callable[[str], None] | None:
        if not self._tools.allow_unjailed:
            return None
        return self._on_loss or (lambda _: None)

    async def start_vmm(self) -> Vm:
        """Start the VMM's process; return the machine, not yet connected to."""
        spec = self._spec
        console = ConsoleLog(spec.logs)
        self._undo.callback(console.close)
        with ExitStack() as passed:
            vmm = await self.spawn_vmm(passed)
        self._undo.callback(vmm.close)
        self._undo.push_async_callback(vmm.end, 0)
        assert self._state is not None
        return Vm(
            spec.directory,
            self._state,
            vmm=vmm,
            helpers=self._helpers,
            console=console,
            kernel_vsock=self._kernel,
            on_loss=self._on_loss,
            flows=None if self._network is None else self._network.flows,
            arena=self._arena,
        )

    async def prepare(self, vm: Vm) -> None:
        """Prepare the machine further, paused, when its monitor is connected."""

    def listen_sockets(self, passed: ExitStack) -> dict[str, int]:
        """Make the sockets of QEMU's monitor and console: chardev to descriptor."""
        return {name: self._listen(name, passed) for name in _SOCKETS}

    async def spawn_vmm(self, passed: ExitStack) -> Tracked:
        """Start QEMU with its sockets.

        Our copies of them are closed with ``passed``.
        """
        # Late: a host loads what builds jails with its first machine.
        from broker.host.vmm.vmm_jail import qemu_view, spawn_jailed

        spec, tools = self._spec, self._tools
        qmp, console = self.listen_sockets(passed).values()
        backend = self._hybrid or self._kernel
        assert backend is not None
        fds = [qmp, console, *backend.pass_fds]
        # guard: a home's lock lives as long as QEMU
        if spec.home is not None:
            fds.append(spec.home.lock)
            fds += [spec.home.key] if spec.home.key >= 0 else []
        if self._hybrid is not None:
            passed.enter_context(self._hybrid.conn)
        # QEMU has them from here on.
        conns = [passed.enter_context(conn).fileno() for conn in self._folder_conns]
        fds += conns
        wiring = Wiring(qmp, console, backend.device, folder_fds=conns)
        if self._network is not None and self._network.conn is not None:
            nic = passed.enter_context(self._network.conn).fileno()
            fds.append(nic)
            words = self._network.kernel_args
            wiring = replace(wiring, nic_fd=nic, kernel_args=words)
        if spec.arena_bytes:
            wiring = replace(wiring, arena_fd=self.make_arena(passed, fds))
        if self._gpu is not None:
            fds.append(passed.enter_context(self._gpu).fileno())
            wiring = replace(wiring, gpu_fd=fds[-1])
        # The guest's end closes with QEMU.
        fds += [passed.enter_context(seat.conn).fileno() for seat in spec.seats]
        argv = qemu_args(spec, tools.vmm, tools.accel, wiring)
        return await spawn_jailed(
            QEMU,
            argv,
            qemu_view(spec, tools.vmm, tools.accel),
            pass_fds=fds,
            unjailed=self._unjailed,
            known=self._write_down,
        )

    def make_arena(self, passed: ExitStack, fds: list[int]) -> int:
        """Create the machine's arena.

        Append QEMU's descriptor to ``fds`` and return it.
        """
        arena = make_arena(self._spec.arena_bytes)
        passed.callback(os.close, arena)
        self._arena = os.dup(arena)
        self._undo.callback(os.close, self._arena)
        fds.append(arena)
        return arena

    def _listen(self, name: str, passed: ExitStack) -> int:
        """Bind a socket in the machine's directory; return it for the VMM."""
        listener: socket.socket = listen_unix(self._spec.directory / name)
        return passed.enter_context(listener).fileno()


async def adopt_vm(
    directory: Path,
    *,
    nursery: trio.Nursery,
    on_loss: Callable[[str], None] | None = None,
) -> Vm | None:
    """Adopt the running machine of an earlier broker and watch it in ``nursery``.

    Each process is proven by pidfd, start time and boot first.  None when
    there is no machine, or not all of one: call ``clean_leftovers`` then.

    Raises UpstreamError when the VMM lives and cannot be reached.
    A machine with the kernel's vsock is watched as any other, but we hold no
    duplicate of its device: its CID is free the moment QEMU ends.
    """
    state = read_state(directory)
    if state is None:
        return None
    found = find_processes(state)
    if found.vmm is None or not found.complete(state):
        for process in found.all:
            process.close()
        return None
    async with AsyncExitStack() as undo:
        for process in found.all:
            undo.callback(process.close)
        console = ConsoleLog(Path(state.logs))
        undo.callback(console.close)
        vm = Vm(
            directory,
            state,
            vmm=found.vmm,
            helpers=found.helpers,
            console=console,
            on_loss=on_loss,
        )
        vm.resume()  # or a monitor that was suspended says nothing
        await vm.connect(nursery)
        undo.pop_all()
        return vm


async def clean_leftovers(directory: Path) -> int:
    """End the processes of an earlier broker's machine and remove its files.

    Only processes that are proven to be that machine's are ended.  Returns
    how many were.  Raises UpstreamError when the state file is not ours.
    """
    # guard: a machine of another version is ended
    state = read_as(VmProcesses, directory)
    found = () if state is None else find_processes(state).all
    for process in found:
        # A process that was still entering its jail is bubblewrap, with the program below.
        process.kill(signal.SIGSTOP)  # so that the pid is not reused
        # guard: a jail that was being built ends whole
        if not process.ended:
            kill_jail(process.pid)
        process.kill()
    for process in found:
        await process.end(limits.VM_QUIT_SECONDS)
        process.close()
    await remove_aside(remove_files, directory)
    return len(found)
