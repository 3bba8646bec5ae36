"""A client of the control socket, for ``brokerctl``.

One call at a time on a connection.  Errors of the broker are raised as what
they were there.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from broker.control import methods, varlink
from broker.control.api import (
    INTERFACE,
    AuditPruneAnswer,
    AuditPruneRequest,
    ClipboardStatus,
    DeviceAnswer,
    DeviceAttachRequest,
    DeviceDetachRequest,
    DevicesAnswer,
    FolderAnswer,
    FoldersAnswer,
    FolderShareRequest,
    FolderUnshareRequest,
    GrantRevokeRequest,
    GrantsAnswer,
    LaunchAnswer,
    LaunchBindRequest,
    LaunchEndRequest,
    LaunchPrepareRequest,
    LeaseItem,
    LeaseListAnswer,
    LeaseReleaseRequest,
    LeaseRequest,
    MachineEventAnswer,
    MachineEventRequest,
    Nothing,
    OpenItem,
    OpenRequest,
    PendingAnswer,
    QuestionAnswerRequest,
    RunInputRequest,
    RunItem,
    RunRequest,
    RunResizeRequest,
    Status,
    StopAnswer,
    StopRequest,
    Version,
    WindowCloseRequest,
    WindowsAnswer,
    WindowsRequest,
)
from broker.control.blocking import require_own
from broker.control.methods import Method
from broker.control.varlink import Call, VarlinkReader, VarlinkReply
from broker.core.errors import InternalError, SetupError, UpstreamError

ANSWER_SECONDS = 30.0
"""For one answer of a method that does not wait for a machine."""

_READ_BYTES = 65536
_Request = TypeVar("_Request", bound=msgspec.Struct)
_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class BrokerGoneError(UpstreamError):
    """The broker ended, or closed the connection, before it answered."""


class Client:
    """A connection to a broker; made by ``open_client``."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = VarlinkReader()
        self._replies: list[bytes] = []
        self._in_call = False

    async def version(self) -> Version:
        """Which broker this is."""
        return await self._call(methods.GET_VERSION, Nothing())

    async def status(self) -> Status:
        """Everything for ``brokerctl status``."""
        return await self._call(methods.STATUS, Nothing())

    async def run(
        self, request: RunRequest, on_item: Callable[[RunItem], Awaitable[None]]
    ) -> RunItem:
        """Run a program; ``on_item`` gets progress and output as they come.

        Returns ``started``, or ``exited`` if the request says to wait.
        """
        return await self._stream_items(methods.RUN, request, on_item)

    async def open_objects(
        self, request: OpenRequest, on_item: Callable[[OpenItem], Awaitable[None]]
    ) -> OpenItem:
        """Open or copy the person's own; ``on_item`` gets progress as it comes."""
        return await self._stream_items(methods.OPEN, request, on_item)

    async def run_input(self, request: RunInputRequest) -> None:
        """Pass input to a program; waits for as long as it does not read."""
        await self._call(methods.RUN_INPUT, request)

    async def run_resize(self, request: RunResizeRequest) -> None:
        """Set the size of a program's terminal."""
        await self._call(methods.RUN_RESIZE, request)

    async def stop(self, request: StopRequest) -> StopAnswer:
        """End sandboxes; returns when they are gone."""
        return await self._call(methods.STOP, request)

    async def shutdown(self) -> None:
        """Begin to end the broker; ``wait_closed`` returns when it has."""
        await self._call(methods.SHUTDOWN, Nothing())

    async def windows(self, request: WindowsRequest) -> WindowsAnswer:
        """The windows of all sandboxes, or of one."""
        return await self._call(methods.WINDOWS, request)

    async def close_window(self, request: WindowCloseRequest) -> None:
        """End a window, kindly or not."""
        await self._call(methods.WINDOW_CLOSE, request)

    async def lease(self, request: LeaseRequest) -> LeaseItem:
        """Register a peer whose lease lives as long as ``request.leader``."""
        return await self._call(methods.LEASE_ACQUIRE, request)

    async def hold_lease(
        self, request: LeaseRequest, on_item: Callable[[LeaseItem], Awaitable[None]]
    ) -> LeaseItem:
        """Hold a lease until it ends, or this is cancelled; ``on_item`` gets it."""
        return await self._stream_items(methods.LEASE_ACQUIRE, request, on_item)

    async def machine_event(self, request: MachineEventRequest) -> MachineEventAnswer:
        """Report a step of a machine that a launcher starts."""
        return await self._call(methods.MACHINE_EVENT, request)

    async def prepare_launch(self, request: LaunchPrepareRequest) -> LaunchAnswer:
        """Prepare the launch of a container or box."""
        return await self._call(methods.LAUNCH_PREPARE, request)

    async def bind_launch(self, request: LaunchBindRequest) -> LeaseItem:
        """Lease it to its first process; returns when its sockets exist."""
        return await self._call(methods.LAUNCH_BIND, request)

    async def end_launch(self, request: LaunchEndRequest) -> None:
        """End it; returns when its streams are cut."""
        await self._call(methods.LAUNCH_END, request)

    async def leases(self) -> LeaseListAnswer:
        """All live leases."""
        return await self._call(methods.LEASE_LIST, Nothing())

    async def release(self, request: LeaseReleaseRequest) -> None:
        """End a lease and cut its streams."""
        await self._call(methods.LEASE_RELEASE, request)

    async def prune(self, request: AuditPruneRequest) -> AuditPruneAnswer:
        """Remove old events from the audit log; returns when they are gone."""
        return await self._call(methods.AUDIT_PRUNE, request)

    async def pending(self) -> PendingAnswer:
        """Return the questions that wait for the person."""
        return await self._call(methods.PENDING, Nothing())

    async def answer(self, request: QuestionAnswerRequest) -> None:
        """Answer a question in the person's place."""
        await self._call(methods.ANSWER, request)

    async def grants(self) -> GrantsAnswer:
        """Answers that are remembered."""
        return await self._call(methods.GRANT_LIST, Nothing())

    async def revoke(self, request: GrantRevokeRequest) -> GrantsAnswer:
        """Take grants back; returns those that ended."""
        return await self._call(methods.GRANT_REVOKE, request)

    async def clipboard(self) -> ClipboardStatus:
        """The clipboard between sandboxes, and its chords."""
        return await self._call(methods.CLIPBOARD, Nothing())

    async def clear_clipboard(self) -> None:
        """Wipe it; returns when it is wiped."""
        await self._call(methods.CLIPBOARD_CLEAR, Nothing())

    async def choose_chords(self) -> ClipboardStatus:
        """Have the broker read which chords the person wants."""
        return await self._call(methods.CLIPBOARD_CHORDS, Nothing())

    async def folders(self) -> FoldersAnswer:
        """Directories that sandboxes have."""
        return await self._call(methods.FOLDERS, Nothing())

    async def share_folder(self, request: FolderShareRequest) -> FolderAnswer:
        """Share a directory with a sandbox."""
        return await self._call(methods.FOLDER_SHARE, request)

    async def unshare_folder(self, request: FolderUnshareRequest) -> FolderAnswer:
        """Take a directory back."""
        return await self._call(methods.FOLDER_UNSHARE, request)

    async def devices(self) -> DevicesAnswer:
        """Plugged-in devices, and the sandboxes that have them."""
        return await self._call(methods.DEVICES, Nothing())

    async def attach_device(self, request: DeviceAttachRequest) -> DeviceAnswer:
        """Attach a device to a sandbox."""
        return await self._call(methods.DEVICE_ATTACH, request)

    async def detach_device(self, request: DeviceDetachRequest) -> DeviceAnswer:
        """Take a device back."""
        return await self._call(methods.DEVICE_DETACH, request)

    async def hang_up(self) -> None:
        """Say that the answer is not waited for; returns when the broker closed.

        The broker ends what the call has started before it closes.
        """
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Return when the broker has closed the connection."""
        while await self._receive():
            pass

    async def _call(
        self,
        method: Method[_Request, _Answer],
        request: _Request,
    ) -> _Answer:
        limit = float("inf") if method.waits else ANSWER_SECONDS
        with trio.move_on_after(limit):
            await self._send(method.name, request, more=False)
            return _decode(await self._reply(), method.answer)
        raise UpstreamError(
            f"the broker did not answer within {limit:g} s",
            hint="'brokerctl doctor' looks for the reason",
        )

    async def _stream_items(
        self,
        method: Method[_Request, _Answer],
        request: _Request,
        on_item: Callable[[_Answer], Awaitable[None]],
    ) -> _Answer:
        await self._send(method.name, request, more=True)
        while True:
            reply = await self._reply()
            if not reply.continues:
                return _decode(reply, method.answer)
            await on_item(_decode(reply, method.answer))

    async def _send(self, method: str, request: msgspec.Struct, *, more: bool) -> None:
        if self._in_call:
            raise InternalError("a call on a connection with an unfinished one")
        self._in_call = True
        call = Call(f"{INTERFACE}.{method}", varlink.raw(request), more=more)
        try:
            await self._stream.send_all(varlink.encode(call))
        except trio.BrokenResourceError:
            # It may have refused us and hung up before we asked: the reply
            # is there to be read, and if it is not, reading says so.
            return

    async def _reply(self) -> VarlinkReply:
        """Return the next reply, or raise the error that it carries."""
        while not self._replies:
            data = await self._receive()
            if not data:
                raise BrokerGoneError(
                    "the broker closed the connection before it answered",
                    hint="it may have ended; its log and 'brokerctl audit' say why",
                )
            self._replies += self._reader.feed(data)
        reply = varlink.decode_reply(self._replies.pop(0))
        self._in_call = reply.continues
        if reply.error:
            self._in_call = False
            raise varlink.error_of(reply)
        return reply

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        except trio.BrokenResourceError:
            return b""


def _decode(reply: VarlinkReply, into: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(reply.parameters, type=into)
    except varlink.BAD_JSON as error:
        raise InternalError(
            f"the broker's answer is not understood: {error}",
            hint="are brokerctl and the running broker of one version?",
        ) from error


@asynccontextmanager
async def open_client(
    path: Path, *, start: str = "'brokerctl run SANDBOX' starts one"
) -> AsyncIterator[Client]:
    """Connect to the broker that serves at ``path``.

    Raises SetupError when none does, which says ``start``, when it may not be
    reached, or is another user's.
    """
    try:
        stream = await trio.open_unix_socket(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise SetupError(
            f"no broker runs (nothing answers at {path})",
            hint=start,
        ) from error
    except OSError as error:
        raise SetupError(
            f"the broker at {path} cannot be reached: {error}",
            hint="a broker serves the user who started it: are you that user?",
        ) from error
    async with stream:
        require_own(stream.socket, path)
        yield Client(stream)
