"""Copies that wait: a machine of a record, loaded and paused, for its next start.

A machine that waits has no name, no lease, no listener, no program and no key: since
the parent was saved its guest has run only the record's program, to no screen, and
what that left was removed (``shims/guest/rehearsal.py``).  It ends with the broker, with the
parent's age, when memory is short, and when it would not be the machine that the
next start wants.  Then that start copies or boots.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable, Container
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec
import trio

from broker.core import limits
from broker.core.errors import UpstreamError, VitrailError
from broker.core.files.trees import remove_tree
from broker.core.names import SandboxName
from broker.host.vmm.launcher import Tools, clean_leftovers
from broker.host.vmm.parent.fork import WaitingPlan
from broker.host.vmm.parent.memory_pressure import available_bytes, memory_short
from broker.host.vmm.parent.parent_files import StoredParent, program_identity
from broker.host.vmm.parent.request import StartRequest
from broker.host.vmm.parent.shared import SharedMemories, WaitingSharedPlan
from broker.host.vmm.port_mux import mux_program, why_missing
from broker.host.vmm.qemu_arguments import Network, VmSpec
from broker.host.vmm.running import Vm

RESOLV_CONF = Path("/etc/resolv.conf")
StartVm = Callable[..., Awaitable[Vm]]
FindParent = Callable[[StartRequest, str], Awaitable[StoredParent | None]]


@dataclass(eq=False)
class Standby:
    """One machine that waits.  ``key`` and ``made`` are its parent's."""

    key: str
    made: float
    memory_mib: int
    network: Network
    helpers: tuple[str, ...]
    """Of which its programs beside QEMU were."""
    resolver: bytes
    """The resolv.conf(5) that passt has read; empty without a network."""
    plan: WaitingPlan
    vm: Vm
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    gone: bool = False
    """A start has it, or it is being ended."""

    async def close(self) -> None:
        """End the standby machine, and remove its directory; not cancellable."""
        with trio.CancelScope(shield=True):
            self.plan.release()
            directory = self.vm.directory
            await self.vm.close()
            remove_tree(directory)


@dataclass(eq=False)
class _Coming:
    """A machine that is being started, or soon."""

    memory_mib: int = 0
    """Once it is known that there is room for it."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class StandbyPool:
    """At most one machine for each record, in directories below ``root``.

    ``find`` gives the parent of a request; ``report`` gets a sentence when a
    machine cannot be started, or ends because memory is short.
    """

    def __init__(
        self,
        root: Path,
        nursery: trio.Nursery,
        start_vm: StartVm,
        find: FindParent,
        report: Callable[[str], None],
        *,
        memories: SharedMemories | None = None,
    ) -> None:
        self._root = root
        self._memories = memories or SharedMemories(nursery)
        self._nursery = nursery
        self._start_vm = start_vm
        self._find = find
        self._report = report
        self._waiting: dict[str, Standby] = {}
        self._coming: dict[str, _Coming] = {}
        self._watched = False
        self._not_before = 0.0
        self.delay_seconds = limits.STANDBY_DELAY_SECONDS
        self.wait_until_short: Callable[[], Awaitable[str]] = memory_short

    @property
    def records(self) -> frozenset[str]:
        """Records of which a machine waits."""
        return frozenset(self._waiting)

    @property
    def processes(self) -> tuple[tuple[str, str, int], ...]:
        """Return (record, role, pid) of all processes of standby machines."""
        return tuple(
            (record, process.role, process.pid)
            for record, standby in self._waiting.items()
            for process in standby.vm.processes
        )

    def drop(self, record: str) -> None:
        """End the machine of a record of which none is wanted any more."""
        # guard: dropping a standby machine cancels one that starts, too
        for found in (self._waiting.get(record), self._coming.get(record)):
            if found is not None:
                found.scope.cancel()

    # -- making ------------------------------------------------------------------

    def prepare_soon(self, request: StartRequest, key: str) -> None:
        """Start a machine for the next start, in the background, if one is wanted."""
        record = request.record
        if record in self._waiting or record in self._coming:
            return
        if request.standby_mib:
            coming = self._coming[record] = _Coming()
            self._nursery.start_soon(self._prepare, request, key, coming)

    async def _prepare(self, request: StartRequest, key: str, coming: _Coming) -> None:
        """Start a machine that waits, after a pause; keep it until it is taken."""
        record = request.record
        standby: Standby | None = None
        try:
            with coming.scope:
                # The user's window comes first.
                await trio.sleep(self.delay_seconds)
                parent = await self._find(request, key)
                if parent is not None and self._has_room(request):
                    coming.memory_mib = request.spec.memory_mib
                    standby = await self._start(request, parent)
        except (VitrailError, OSError, ExceptionGroup) as error:
            self._report(f"cannot prepare a standby machine of '{record}': {error}")
        finally:
            del self._coming[record]
        if standby is None:
            return
        if coming.scope.cancel_called:
            standby.scope.cancel()
        self._waiting[record] = standby
        if not self._watched:
            self._watched = True
            self._nursery.start_soon(self._end_when_short)
        await self._keep(record, standby)

    def _has_room(self, request: StartRequest) -> bool:
        """Return whether the record's limit and free memory allow another machine."""
        need = request.spec.memory_mib
        used = sum(standby.memory_mib for standby in self._waiting.values())
        coming = sum(one.memory_mib for one in self._coming.values())
        # guard: waiting machines have no more memory than the record allows
        if used + coming + need > request.standby_mib:
            return False
        if trio.current_time() < self._not_before:
            return False
        return available_bytes() >= (need << 20) + limits.STANDBY_FREE_BYTES

    async def _start(self, request: StartRequest, parent: StoredParent) -> Standby:
        """Start a waiting machine in a fresh directory."""
        # A fresh one: the last machine of the record may still be waking or
        # ending in its place, and its files must not be those of this one.
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # guard: each standby machine has a separate directory
        directory = Path(tempfile.mkdtemp(dir=self._root))
        try:
            with trio.fail_after(limits.STANDBY_SECONDS):
                return await self._start_in(directory, request, parent)
        except BaseException as error:
            remove_tree(directory)
            if isinstance(error, trio.TooSlowError):
                raise UpstreamError(
                    f"QEMU did not load the copy within {limits.STANDBY_SECONDS:g} s"
                ) from None
            raise

    async def _start_in(
        self, directory: Path, request: StartRequest, parent: StoredParent
    ) -> Standby:
        """Start a waiting machine in its directory."""
        spec = replace(
            request.spec,
            name=SandboxName(request.record),
            directory=directory,
            logs=directory / "logs",
            initrd=request.write_initrd(directory),
        )
        helpers, resolver = _helpers(request.tools), _resolver(spec.network)
        plans: list[WaitingPlan] = []
        waiting: Callable[..., WaitingPlan] = WaitingPlan
        if request.shared:
            waiting = partial(
                WaitingSharedPlan, record=request.record, memories=self._memories
            )

        def make_plan(
            spec: VmSpec,
            tools: Tools,
            undo: AsyncExitStack,
            on_loss: Callable[[str], None] | None,
        ) -> WaitingPlan:
            plan = waiting(spec, tools, undo, on_loss, parent=parent, warm=request.warm)
            plans.append(plan)
            return plan

        start = partial(self._start_vm, spec, request.tools, nursery=self._nursery)
        vm = await start(make_plan=make_plan)
        return Standby(
            key=parent.key,
            made=parent.made,
            memory_mib=spec.memory_mib,
            network=spec.network,
            helpers=helpers,
            resolver=resolver,
            plan=plans[0],
            vm=vm,
        )

    # -- waiting -----------------------------------------------------------------

    async def _keep(self, record: str, standby: Standby) -> None:
        """Wait for its use or its end, at its parent's age at the latest."""
        left = standby.made + limits.PARENT_SECONDS - time.time()
        # guard: a machine that waits ends with its parent's age
        standby.scope.deadline = trio.current_time() + left
        try:
            with standby.scope:
                await standby.vm.wait()
        finally:
            if not standby.gone:
                standby.gone = True
                await standby.close()
                del self._waiting[record]

    async def _end_when_short(self) -> None:
        """End waiting machines whenever memory is short; runs for ever."""
        while True:
            why = await self.wait_until_short()
            self._not_before = trio.current_time() + limits.STANDBY_PAUSE_SECONDS
            for record, standby in self._waiting.items():
                self._report(f"stopped the standby machine of '{record}': {why}")
                standby.scope.cancel()
            await trio.sleep(limits.STANDBY_PAUSE_SECONDS)

    # -- using -------------------------------------------------------------------

    async def take(
        self,
        request: StartRequest,
        key: str,
        quarantine: Container[int],
        on_loss: Callable[[str], None] | None,
    ) -> tuple[Vm | None, str]:
        """Take the standby machine for a request out of the pool; return it, paused.

        None and an empty text if none exists; None and the reason if it cannot be
        used, after ending it.
        """
        standby = self._waiting.get(request.record)
        if standby is None or standby.scope.cancel_called:
            return None, ""
        # guard: a machine that is being ended is not used
        if standby.gone:
            return None, ""
        del self._waiting[request.record]
        standby.gone = True
        standby.scope.cancel()
        try:
            why = _unfit(standby, request, key, quarantine)
            if not why:
                await self._wake(standby, request.spec, on_loss)
        except (VitrailError, OSError) as error:
            why = f"the standby machine failed: {error}"
        except BaseException:
            await standby.close()
            raise
        if why:
            await standby.close()
            return None, why
        return standby.vm, ""

    async def _wake(
        self,
        standby: Standby,
        spec: VmSpec,
        on_loss: Callable[[str], None] | None,
    ) -> None:
        """Give a waiting machine its name and directory, where it is paused again.

        Removes the directory in which it has waited.  Raises UpstreamError.
        """
        vm, waited = standby.vm, standby.vm.directory
        with trio.move_on_after(limits.FORK_SECONDS) as late:
            await standby.plan.wake(vm, spec.name)
        if late.cancelled_caught:
            raise UpstreamError(f"it was not ready within {limits.FORK_SECONDS:g} s")
        state = msgspec.structs.replace(vm.state, name=spec.name, logs=str(spec.logs))
        vm.settle(state, spec.directory, on_loss)
        remove_tree(waited)


def _unfit(
    standby: Standby, request: StartRequest, key: str, quarantine: Container[int]
) -> str:
    """Return why a standby machine must not be used for this start; empty if it may."""
    # guard: a machine that waited is not used with another key
    if standby.key != key:
        return "the standby machine has another image, QEMU version or record"
    # guard: a machine that waited has the network that its record says
    if standby.network != request.spec.network:
        return "the standby machine has another network"
    # guard: a machine that waited has the programs of this machine
    if standby.helpers != _helpers(request.tools):
        return "the standby machine has outdated helper processes"
    # guard: a machine that waited asks the resolver of this place
    if standby.resolver != _resolver(request.spec.network):
        return "the standby machine has another resolver"
    if not 0 <= time.time() - standby.made <= limits.PARENT_SECONDS:
        return "the standby machine is more than a day old"
    # guard: a machine that waited has no address that is closed
    if standby.vm.cid in quarantine:
        return "the vsock CID of the standby machine is in use"
    return ""


def _helpers(tools: Tools) -> tuple[str, ...]:
    """Which programs run beside QEMU; another text when a package replaced one."""
    paths = [tools.vhost_device_vsock, tools.passt]
    if not why_missing():
        paths.append(mux_program())
    return tuple(map(program_identity, filter(None, paths)))


def _resolver(network: Network) -> bytes:
    """Return the resolv.conf that passt reads once, at its start."""
    if network is Network.NONE:
        return b""
    try:
        return RESOLV_CONF.read_bytes()
    except FileNotFoundError:
        return b""


async def clean_standbys(root: Path) -> int:
    """End the standby machines of a killed broker; return how many processes ended.

    Raises UpstreamError if a state file is not ours, after the others have ended.
    """
    ended = 0
    failed: UpstreamError | None = None
    for directory in sorted(root.glob("*/")):
        try:
            ended += await clean_leftovers(directory)
        except UpstreamError as error:
            failed = error
            continue
        remove_tree(directory)
    if failed is not None:
        raise failed
    return ended
