"""A broker's API that does what a test tells it, behind a real control socket."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from broker.control.api import (
    AuditPruneAnswer,
    AuditPruneRequest,
    Caller,
    ClipboardStatus,
    DeviceAnswer,
    DeviceAttachRequest,
    DeviceDetachRequest,
    DevicesAnswer,
    Emit,
    GrantRevokeRequest,
    GrantsAnswer,
    GrantStatus,
    LeaseItem,
    LeaseListAnswer,
    LeaseReleaseRequest,
    LeaseRequest,
    LeaseStatus,
    NotFoundError,
    PendingAnswer,
    PendingQuestion,
    PolicyStatus,
    QuestionAnswerRequest,
    RunInputRequest,
    RunItem,
    RunRequest,
    RunResizeRequest,
    Started,
    Status,
    StopAnswer,
    StopRequest,
    Version,
    WindowCloseRequest,
    WindowsAnswer,
    WindowsRequest,
    WindowStatus,
)
from broker.control.methods import TABLE, Elsewhere
from broker.control.server import serve
from broker.core.errors import RefusedError

LEASE = LeaseStatus(
    id="00112233aabbccdd",
    sandbox="work",
    record="work",
    generation=1,
    peer="cid 42",
    since=1_790_000_000.0,
)


async def _started(caller: Caller, request: RunRequest, emit: Emit[RunItem]) -> RunItem:
    del caller, emit
    return RunItem(started=Started(sandbox=request.record, program=1))


EMPTY_BOARD = ClipboardStatus(
    source="",
    types=[],
    size=0,
    seconds=0.0,
    offered=[],
    exported="",
    focused="",
    copy_chord="Super+Shift+C",
    paste_chord="Super+Shift+V",
    preset="vitrail",
)


@dataclass
class ScriptedBroker:
    """Implements ``BrokerApi``; the requests are in ``asked``."""

    plugged: DevicesAnswer = field(
        default_factory=lambda: DevicesAnswer(devices=[], strict=False, problems=[])
    )
    handed: list[tuple[str, str]] = field(default_factory=list)
    state: Status = field(
        default_factory=lambda: Status(
            version="0.1.0",
            role="local",
            pid=os.getpid(),
            since=1_790_000_000.0,
            monotonic=100.0,
            policy=PolicyStatus(digest="d" * 64),
        )
    )
    on_run: Callable[[Caller, RunRequest, Emit[RunItem]], Awaitable[RunItem]] = _started
    on_stop: Callable[[StopRequest], Awaitable[None]] | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)
    questions: list[PendingQuestion] = field(default_factory=list)
    board: ClipboardStatus = EMPTY_BOARD
    chosen: int = 0
    held_grants: list[GrantStatus] = field(default_factory=list)
    shown: list[WindowStatus] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    held: int = 0
    pid: int = field(default_factory=os.getpid)
    """Of its process, as ``version`` tells it."""
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def elsewhere(self) -> dict[str, Elsewhere]:
        reason = Elsewhere("the test's broker does not answer this", "")
        return {
            name: reason
            for name, row in TABLE.items()
            if not hasattr(self, row.handler)
        }

    async def version(self) -> Version:
        return Version(version="0.1.0", role="local", pid=self.pid)

    async def run(
        self, caller: Caller, request: RunRequest, emit: Emit[RunItem]
    ) -> RunItem:
        self.asked.append(("run", request))
        return await self.on_run(caller, request, emit)

    async def run_input(self, caller: Caller, request: RunInputRequest) -> None:
        del caller
        self.asked.append(("input", request))

    async def run_resize(self, caller: Caller, request: RunResizeRequest) -> None:
        del caller
        self.asked.append(("resize", request))

    async def stop(self, caller: Caller, request: StopRequest) -> StopAnswer:
        del caller
        self.asked.append(("stop", request))
        if self.on_stop is not None:
            await self.on_stop(request)
        names = [s.name for s in self.state.sandboxes]
        if request.sandbox is None:
            return StopAnswer(stopped=names)
        if request.sandbox not in names:
            raise NotFoundError(f"no sandbox runs under the name {request.sandbox}")
        return StopAnswer(stopped=[request.sandbox])

    async def shutdown(self, caller: Caller) -> None:
        del caller
        self.asked.append(("shutdown", None))
        self.ended.set()

    async def status(self) -> Status:
        return self.state

    async def windows(self, request: WindowsRequest) -> WindowsAnswer:
        self.asked.append(("windows", request))
        if request.sandbox not in {None, *(w.sandbox for w in self.shown)}:
            raise NotFoundError(f"no sandbox '{request.sandbox}' runs")
        return WindowsAnswer(windows=self.shown, silent=self.silent)

    async def close_window(self, caller: Caller, request: WindowCloseRequest) -> None:
        del caller
        self.asked.append(("close_window", request))
        if request.window not in [w.window for w in self.shown]:
            raise NotFoundError(f"sandbox has no window {request.window}")

    async def lease(self, caller: Caller, request: LeaseRequest) -> LeaseItem:
        del caller
        self.asked.append(("lease", request))
        return LeaseItem(lease=LEASE)

    async def hold_lease(
        self, caller: Caller, request: LeaseRequest, emit: Emit[LeaseItem]
    ) -> LeaseItem:
        del caller
        self.asked.append(("hold", request))
        self.held += 1
        try:
            await emit(LeaseItem(lease=LEASE))
            await self.ended.wait()
            return LeaseItem(ended="its process has ended")
        finally:
            self.held -= 1

    async def leases(self) -> LeaseListAnswer:
        return LeaseListAnswer(leases=[LEASE])

    async def prune(
        self, caller: Caller, request: AuditPruneRequest
    ) -> AuditPruneAnswer:
        del caller
        self.asked.append(("prune", request))
        return AuditPruneAnswer(removed=7)

    async def pending(self) -> PendingAnswer:
        return PendingAnswer(questions=self.questions)

    async def answer(self, caller: Caller, request: QuestionAnswerRequest) -> None:
        del caller
        self.asked.append(("answer", request))

    async def devices(self) -> DevicesAnswer:
        return self.plugged

    async def attach_device(
        self, caller: Caller, request: DeviceAttachRequest
    ) -> DeviceAnswer:
        del caller
        self.handed.append((request.port, request.sandbox))
        return DeviceAnswer(
            port=request.port,
            sandbox=request.sandbox,
            attachment="dev-1",
            backend="usbip",
        )

    async def detach_device(
        self, caller: Caller, request: DeviceDetachRequest
    ) -> DeviceAnswer:
        del caller
        if not self.handed:
            raise RefusedError("nothing of port '2-1' is attached", hint="look")
        _, sandbox = self.handed.pop()
        return DeviceAnswer(
            port=request.port, sandbox=sandbox, attachment="dev-1", backend="usbip"
        )

    async def clipboard(self) -> ClipboardStatus:
        return self.board

    async def clear_clipboard(self, caller: Caller) -> None:
        del caller
        self.board = EMPTY_BOARD

    async def choose_chords(self, caller: Caller) -> ClipboardStatus:
        del caller
        self.chosen += 1
        return self.board

    async def grants(self) -> GrantsAnswer:
        return GrantsAnswer(grants=self.held_grants)

    async def revoke(self, caller: Caller, request: GrantRevokeRequest) -> GrantsAnswer:
        del caller
        self.asked.append(("revoke", request))
        known = [one for one in self.held_grants if request.id in {None, one.id}]
        if request.id is not None and not known:
            raise NotFoundError("there is no such grant")
        return GrantsAnswer(grants=known)

    async def release(self, caller: Caller, request: LeaseReleaseRequest) -> None:
        del caller
        self.asked.append(("release", request))
        if request.id != LEASE.id:
            raise NotFoundError("there is no such lease")


@asynccontextmanager
async def serving(path: Path, api: ScriptedBroker) -> AsyncIterator[trio.Nursery]:
    """Serve ``api`` at ``path``; the nursery is for the test's own tasks."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, path, api)
        yield nursery
        nursery.cancel_scope.cancel()
