"""Which machines are copied, which boot, and when a parent is made.

A copy that fails is never the user's problem: the same start boots plainly, and
the reason goes into the event.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import trio

from broker.core import limits
from broker.core.errors import UpstreamError, VitrailError
from broker.host.vmm.accel import why_not_copied
from broker.host.vmm.launcher import start_vm
from broker.host.vmm.parent.fork import CopyPlan
from broker.host.vmm.parent.make import ParentPlan, make_parent
from broker.host.vmm.parent.memory_pressure import available_bytes
from broker.host.vmm.parent.parent_files import ParentStore, StoredParent
from broker.host.vmm.parent.request import StartedVm, StartRequest, parent_key
from broker.host.vmm.parent.shared import SharedMemories, SharedPlan, why_not_shared
from broker.host.vmm.parent.standby import StandbyPool
from broker.host.vmm.running import Vm
from broker.ipc.in_thread import in_thread

if TYPE_CHECKING:
    from broker.host.vmm.launcher import MakePlan


VARIABLE = "VITRAIL_FORK"
"""With ``no`` machines boot, whatever records say: for a machine that is measured."""


class Starter:
    """Starts machines as copies where it can; makes parents in ``nursery``.

    ``report`` gets a sentence when a parent cannot be made.
    """

    def __init__(
        self,
        root: Path,
        nursery: trio.Nursery,
        report: Callable[[str], None],
        standbys: Path | None = None,
    ) -> None:
        self._store = ParentStore(root)
        self._nursery = nursery
        self._report = report
        self._making: set[str] = set()
        self._swept = False
        self._one_at_a_time = trio.Lock()
        self._failures: dict[str, int] = {}
        self._failed_at: dict[str, float] = {}
        """Of each record with failures, the last one, by trio's clock."""
        self.fork_seconds = limits.FORK_SECONDS
        self.delay_seconds = limits.PARENT_DELAY_SECONDS
        self.background = True
        self._memories = SharedMemories(nursery)
        self.pool = None
        if standbys is not None:
            self.pool = StandbyPool(
                standbys,
                nursery,
                start_vm,
                self._find,
                report,
                memories=self._memories,
            )

    def close(self) -> None:
        """Let go of the memory of parents; machines that run keep it."""
        self._memories.close()

    async def start(
        self,
        request: StartRequest,
        *,
        quarantine: Container[int] = frozenset(),
        on_loss: Callable[[str], None] | None = None,
    ) -> StartedVm:
        """Start a machine, paused: copied, shared or booted. Raises as ``start_vm``."""
        start = partial(
            start_vm,
            request.spec,
            request.tools,
            nursery=self._nursery,
            quarantine=quarantine,
            on_loss=on_loss,
        )
        reasons = [why_not_shared()] if request.shared else []
        if any(reasons):
            request = replace(request, mode="copy")
        why = self.never(request)
        if why:
            self._drop_standby(request.record)
            return StartedVm(await start(), "boot", _text([*reasons, why]))
        if not self._swept:
            await in_thread(self._store.sweep, time.time())
            self._swept = True
        key = parent_key(request)
        if self.pool is not None:
            waited, unused = await self.pool.take(request, key, quarantine, on_loss)
            if waited is not None:
                self.pool.prepare_soon(request, key)
                return StartedVm(waited, "standby", _text(reasons))
            reasons.append(unused)
        vm, why = await self._try_copy(start, request, key)
        if vm is not None:
            how: Literal["fork", "copy"] = "fork" if request.shared else "copy"
            return StartedVm(vm, how, _text(reasons))
        vm = await start()
        if not self._given_up(request.record):
            self._make_soon(request, key)
        return StartedVm(vm, "boot", _text([*reasons, why]))

    async def _try_copy(
        self, start: Callable[..., Awaitable[Vm]], request: StartRequest, key: str
    ) -> tuple[Vm | None, str]:
        """Return a machine that came up from its parent, or None and why not."""
        parent, why = await self._look(request, key)
        if parent is None:
            return None, why
        try:
            vm = await self._copy(start, parent, request)
        except (VitrailError, OSError, ExceptionGroup) as error:
            self._failed(request.record)
            return None, f"the {'fork' if request.shared else 'copy'} failed: {error}"
        self._failures.pop(request.record, None)
        if self.pool is not None:
            self.pool.prepare_soon(request, key)
        return vm, ""

    def _drop_standby(self, record: str) -> None:
        if self.pool is not None:
            # guard: a record that boots has no machine that waits
            self.pool.drop(record)

    async def _look(
        self, request: StartRequest, key: str
    ) -> tuple[StoredParent | None, str]:
        return await in_thread(self._store.find, request.record, key, time.time())

    async def _find(self, request: StartRequest, key: str) -> StoredParent | None:
        return (
            None
            if self._given_up(request.record)
            else (await self._look(request, key))[0]
        )

    def never(self, request: StartRequest) -> str:
        """Return why this machine is never a copy; empty if it may be."""
        spec, tools = request.spec, request.tools
        if request.mode == "no":
            return 'the record sets fork = "no"'
        if os.environ.get(VARIABLE) == "no":
            return f"{VARIABLE}=no"
        if not spec.disposable:
            return "only disposable sandboxes can be copied"
        for there, what in (
            (spec.folders, "folders"),
            (spec.disks, "disks"),
            (spec.seats, "a port at a switch"),
            (spec.huge_pages, "huge pages"),
            (spec.shared_image_bytes, "a shared image"),
            (spec.gpu, "a GPU"),
        ):
            if there:
                return f"machines with {what} cannot be copied"
        kernel_vsock = tools.vhost_device_vsock is None
        problem = why_not_copied(tools.accel, kernel_vsock=kernel_vsock)
        if problem and not request.shared:
            return problem
        if self._given_up(request.record):
            return (
                "copies of this record have failed; for some minutes it boots instead"
            )
        return ""

    async def _copy(
        self,
        start: Callable[..., Awaitable[Vm]],
        parent: StoredParent,
        request: StartRequest,
    ) -> Vm:
        """Start a copy of a parent."""
        plan: MakePlan = partial(CopyPlan, parent=parent, warm=request.warm)
        if request.shared:
            plan = partial(
                SharedPlan,
                parent=parent,
                warm=request.warm,
                record=request.record,
                memories=self._memories,
            )
        with trio.move_on_after(self.fork_seconds):
            return await start(make_plan=plan)
        raise UpstreamError(f"it was not ready within {self.fork_seconds:g} s")

    def _failed(self, record: str) -> None:
        self._failures[record] = self._failures.get(record, 0) + 1
        self._failed_at[record] = trio.current_time()
        self._memories.drop(record)
        self._store.drop(record)

    def _given_up(self, record: str) -> bool:
        """Return whether copies of a record failed too often lately."""
        if self._failures.get(record, 0) < limits.FORK_FAILURES:
            return False
        if trio.current_time() < self._failed_at[record] + limits.FORK_PAUSE_SECONDS:
            return True
        # One more try: the next failure gives up again.
        self._failures[record] = limits.FORK_FAILURES - 1
        return False

    # -- making ----------------------------------------------------------------

    def _make_soon(self, request: StartRequest, key: str) -> None:
        if request.record not in self._making:
            self._making.add(request.record)
            self._nursery.start_soon(self._make, request, key)

    async def _make(self, request: StartRequest, key: str) -> None:
        """Make a parent in the background; report a failure."""
        try:
            await trio.sleep(self.delay_seconds)
            async with self._one_at_a_time:
                await self.make(request, key)
            if self.pool is not None:
                self.pool.prepare_soon(request, key)
        except (VitrailError, OSError) as error:
            self._failures[request.record] = limits.FORK_FAILURES
            self._failed_at[request.record] = trio.current_time()
            self._report(
                f"cannot create a parent machine of '{request.record}': {error}"
            )
        finally:
            self._making.discard(request.record)

    async def make(self, request: StartRequest, key: str | None = None) -> StoredParent:
        """Make the parent of a record now.

        Raises UpstreamError when it fails or the machine has no room for it.
        """
        spec, tools = request.spec, request.tools
        need = (spec.memory_mib << 20) + limits.PARENT_FREE_BYTES
        plan = ParentPlan(
            spec,
            tools,
            request.warm,
            request.write_initrd,
            self.background,
            request.shared,
        )
        with self._store.new() as room:
            _check_room(room, need)
            await make_parent(plan, room)
            key = key or parent_key(request)
            publish = self._store.publish
            return await in_thread(publish, room, request.record, key, time.time())


def _text(reasons: Sequence[str]) -> str:
    return "; ".join(filter(None, reasons))


def _check_room(directory: Path, need: int) -> None:
    """Raise UpstreamError unless so much memory and disk space is free."""
    disk = os.statvfs(directory)
    if disk.f_bavail * disk.f_frsize < need:
        raise UpstreamError(f"less than {need >> 20} MiB of disk space are free")
    if available_bytes() < need:
        raise UpstreamError(f"less than {need >> 20} MiB of memory are free")
