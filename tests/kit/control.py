"""A broker's API that does what a test tells it, at a real control socket."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from broker import __version__
from broker.authority.control.server import serve
from broker.core.errors import RefusedError
from broker.ipc.control import methods
from broker.ipc.control.api import (
    AuditPruneAnswer,
    AuditPruneRequest,
    Caller,
    ClipboardStatus,
    DeviceAnswer,
    DeviceAttachRequest,
    DeviceDetachRequest,
    DevicesAnswer,
    Emit,
    EventItem,
    EventsRequest,
    GrantRevokeRequest,
    GrantsAnswer,
    GrantStatus,
    LeaseItem,
    LeaseListAnswer,
    LeaseReleaseRequest,
    LeaseRequest,
    LeaseStatus,
    Nothing,
    OpenItem,
    OpenRequest,
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
from broker.ipc.control.dispatch import Dispatcher
from broker.ipc.control.forward import serve_forwarded
from broker.ipc.control.forwarder import Forwarder
from broker.ipc.control.method import Exchange, Owner, serves
from broker.ipc.control.types.folders import FoldersAnswer
from broker.ipc.control.varlink import Call, VarlinkReply
from broker.ipc.control.varlink_service import describe_service
from broker.wire.faults import NotFoundError
from broker.wire.row import ProcessKind

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


def exchange(emit: Emit[Any], *, more: bool = True) -> Exchange[Any]:
    """Return a call of this process, whose items go to ``emit``."""
    return Exchange(Caller(os.getpid(), os.getuid()), more, emit)


async def _none(item: object) -> None:
    raise AssertionError(item)


EXCHANGE = exchange(_none, more=False)
"""A call without items."""


async def _unanswered(call: Call, exchange: Exchange[Any]) -> VarlinkReply:
    raise RefusedError(f"the test's broker does not answer {call.method}")


def partly(parts: Iterable[object]) -> Dispatcher:
    """Return what answers the methods of some parts, and refuses the others."""
    return Dispatcher(
        "local",
        parts,
        methods.TABLE,
        forwards=dict.fromkeys(Owner, _unanswered),
        other=describe_service,
    )


@dataclass
class ScriptedBroker:
    """Answers most methods; the requests are in ``asked``."""

    plugged: DevicesAnswer = field(
        default_factory=lambda: DevicesAnswer(devices=[], strict=False, problems=[])
    )
    handed: list[tuple[str, str]] = field(default_factory=list)
    state: Status = field(
        default_factory=lambda: Status(
            version=__version__,
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

    def dispatcher(self) -> Dispatcher:
        """What the control socket serves."""
        return partly([self])

    @serves(methods.GET_VERSION)
    async def version(self, exchange: Exchange[Version], request: Nothing) -> Version:
        return Version(version=__version__, role=self.state.role, pid=self.pid)

    @serves(methods.RUN)
    async def run(self, exchange: Exchange[RunItem], request: RunRequest) -> RunItem:
        self.asked.append(("run", request))
        return await self.on_run(exchange.caller, request, exchange.emit)

    @serves(methods.OPEN)
    async def open_objects(
        self, exchange: Exchange[OpenItem], request: OpenRequest
    ) -> OpenItem:
        del exchange
        raise RefusedError(f"the test's broker opens nothing: {request}")

    @serves(methods.FOLDERS)
    async def folders(
        self, exchange: Exchange[FoldersAnswer], request: Nothing
    ) -> FoldersAnswer:
        return FoldersAnswer(folders=[])

    @serves(methods.RUN_INPUT)
    async def run_input(
        self, exchange: Exchange[Nothing], request: RunInputRequest
    ) -> Nothing:
        self.asked.append(("input", request))
        return Nothing()

    @serves(methods.RUN_RESIZE)
    async def run_resize(
        self, exchange: Exchange[Nothing], request: RunResizeRequest
    ) -> Nothing:
        self.asked.append(("resize", request))
        return Nothing()

    @serves(methods.STOP)
    async def stop(
        self, exchange: Exchange[StopAnswer], request: StopRequest
    ) -> StopAnswer:
        self.asked.append(("stop", request))
        if self.on_stop is not None:
            await self.on_stop(request)
        names = [s.name for s in self.state.sandboxes]
        if request.sandbox is None:
            return StopAnswer(stopped=names)
        if request.sandbox not in names:
            raise NotFoundError(f"no sandbox named '{request.sandbox}' is running")
        return StopAnswer(stopped=[request.sandbox])

    @serves(methods.SHUTDOWN)
    async def shutdown(self, exchange: Exchange[Nothing], request: Nothing) -> Nothing:
        self.asked.append(("shutdown", None))
        self.ended.set()
        return Nothing()

    @serves(methods.STATUS)
    async def status(self, exchange: Exchange[Status], request: Nothing) -> Status:
        return self.state

    @serves(methods.WINDOWS)
    async def windows(
        self, exchange: Exchange[WindowsAnswer], request: WindowsRequest
    ) -> WindowsAnswer:
        self.asked.append(("windows", request))
        if request.sandbox not in {None, *(w.sandbox for w in self.shown)}:
            raise NotFoundError(f"no sandbox '{request.sandbox}' runs")
        return WindowsAnswer(windows=self.shown, silent=self.silent)

    @serves(methods.WINDOW_CLOSE)
    async def close_window(
        self, exchange: Exchange[Nothing], request: WindowCloseRequest
    ) -> Nothing:
        self.asked.append(("close_window", request))
        if request.window not in [w.window for w in self.shown]:
            raise NotFoundError(f"sandbox has no window {request.window}")
        return Nothing()

    @serves(methods.LEASE_ACQUIRE)
    async def lease(
        self, exchange: Exchange[LeaseItem], request: LeaseRequest
    ) -> LeaseItem:
        if not exchange.more:
            self.asked.append(("lease", request))
            return LeaseItem(lease=LEASE)
        self.asked.append(("hold", request))
        self.held += 1
        try:
            await exchange.emit(LeaseItem(lease=LEASE))
            await self.ended.wait()
            return LeaseItem(ended="its process has ended")
        finally:
            self.held -= 1

    @serves(methods.LEASE_LIST)
    async def leases(
        self, exchange: Exchange[LeaseListAnswer], request: Nothing
    ) -> LeaseListAnswer:
        return LeaseListAnswer(leases=[LEASE])

    @serves(methods.EVENTS)
    async def events(
        self, exchange: Exchange[EventItem], request: EventsRequest
    ) -> EventItem:
        return EventItem(sequence=0)

    @serves(methods.AUDIT_PRUNE)
    async def prune(
        self, exchange: Exchange[AuditPruneAnswer], request: AuditPruneRequest
    ) -> AuditPruneAnswer:
        self.asked.append(("prune", request))
        return AuditPruneAnswer(removed=7)

    @serves(methods.PENDING)
    async def pending(
        self, exchange: Exchange[PendingAnswer], request: Nothing
    ) -> PendingAnswer:
        return PendingAnswer(questions=self.questions)

    @serves(methods.ANSWER)
    async def answer(
        self, exchange: Exchange[Nothing], request: QuestionAnswerRequest
    ) -> Nothing:
        self.asked.append(("answer", request))
        return Nothing()

    @serves(methods.DEVICES)
    async def devices(
        self, exchange: Exchange[DevicesAnswer], request: Nothing
    ) -> DevicesAnswer:
        return self.plugged

    @serves(methods.DEVICE_ATTACH)
    async def attach_device(
        self, exchange: Exchange[DeviceAnswer], request: DeviceAttachRequest
    ) -> DeviceAnswer:
        self.handed.append((request.port, request.sandbox))
        return DeviceAnswer(
            port=request.port,
            sandbox=request.sandbox,
            attachment="dev-1",
            backend="usbip",
        )

    @serves(methods.DEVICE_DETACH)
    async def detach_device(
        self, exchange: Exchange[DeviceAnswer], request: DeviceDetachRequest
    ) -> DeviceAnswer:
        if not self.handed:
            raise RefusedError("no device is attached as '2-1'", hint="look")
        _, sandbox = self.handed.pop()
        return DeviceAnswer(
            port=request.port, sandbox=sandbox, attachment="dev-1", backend="usbip"
        )

    @serves(methods.CLIPBOARD)
    async def clipboard(
        self, exchange: Exchange[ClipboardStatus], request: Nothing
    ) -> ClipboardStatus:
        return self.board

    @serves(methods.CLIPBOARD_CLEAR)
    async def clear_clipboard(
        self, exchange: Exchange[Nothing], request: Nothing
    ) -> Nothing:
        self.board = EMPTY_BOARD
        return Nothing()

    @serves(methods.CLIPBOARD_CHORDS)
    async def choose_chords(
        self, exchange: Exchange[ClipboardStatus], request: Nothing
    ) -> ClipboardStatus:
        self.chosen += 1
        return self.board

    @serves(methods.GRANT_LIST)
    async def grants(
        self, exchange: Exchange[GrantsAnswer], request: Nothing
    ) -> GrantsAnswer:
        return GrantsAnswer(grants=self.held_grants)

    @serves(methods.GRANT_REVOKE)
    async def revoke(
        self, exchange: Exchange[GrantsAnswer], request: GrantRevokeRequest
    ) -> GrantsAnswer:
        self.asked.append(("revoke", request))
        known = [one for one in self.held_grants if request.id in {None, one.id}]
        if request.id is not None and not known:
            raise NotFoundError("there is no such grant")
        return GrantsAnswer(grants=known)

    @serves(methods.LEASE_RELEASE)
    async def release(
        self, exchange: Exchange[Nothing], request: LeaseReleaseRequest
    ) -> Nothing:
        self.asked.append(("release", request))
        if request.id != LEASE.id:
            raise NotFoundError("there is no such lease")
        return Nothing()


async def forwarded(nursery: trio.Nursery, dispatcher: Dispatcher) -> Dispatcher:
    """Return a call that has another task answer each call, over a pair of sockets."""
    ours, theirs = socket.socketpair()
    forwarder = Forwarder(ProcessKind.VIEWER, ours)
    nursery.start_soon(serve_forwarded, theirs, ProcessKind.VIEWER, dispatcher)
    await nursery.start(forwarder.run)
    return Dispatcher(
        "local",
        [],
        methods.TABLE,
        forwards=dict.fromkeys(Owner, forwarder),
        other=describe_service,
    )


BY_FORWARDING = False
"""Whether ``serving`` has another task answer; a test's fixture sets it."""


@asynccontextmanager
async def serving(path: Path, api: ScriptedBroker) -> AsyncIterator[trio.Nursery]:
    """Serve ``api`` at ``path``; the nursery is for the test's own tasks."""
    async with trio.open_nursery() as nursery:
        dispatcher = api.dispatcher()
        if BY_FORWARDING:
            dispatcher = await forwarded(nursery, dispatcher)
        await nursery.start(serve, path, dispatcher)
        yield nursery
        nursery.cancel_scope.cancel()
