"""A broker's connection to ``vitrail-devices``."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from broker.core.errors import (
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    sole,
)
from broker.core.limits import devices as limits
from broker.ipc.devices import messages, socket_path
from broker.wire import fdpass
from broker.wire.packets import when_ready

_HINT = "run 'sudo systemctl start vitrail-devices@$USER'; see docs/devices.md"
_CLOSED = "vitrail-devices closed the connection"
_Reply = TypeVar("_Reply", bound=msgspec.Struct)


class DeviceReply(msgspec.Struct):
    """A reply and the descriptor that came with it (-1: none), the caller's to close."""

    reply: messages.Reply
    fd: int = -1


class DeviceClient:
    """Asks ``vitrail-devices``; ``run`` must be running for it to work."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        changed: Callable[[], None],
        ended: Callable[[str, str], None],
    ) -> None:
        self._sock = sock
        self._changed, self._ended = changed, ended
        self._numbers = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel[DeviceReply]] = {}
        self._lock = trio.Lock()
        self._late: trio.Nursery | None = None
        self.closed = trio.Event()

    async def run(self) -> None:
        """Deliver replies and events of vitrail-devices until the connection ends.

        Raises UpstreamError then.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._late = nursery
                while True:
                    await trio.lowlevel.wait_readable(self._sock)
                    self._take()
        except ExceptionGroup as group:
            error = sole(group)
            if isinstance(error, OSError | PeerError):
                raise UpstreamError(f"vitrail-devices: {error}") from error
            raise error from error.__cause__
        finally:
            self._late = None
            self.closed.set()
            for waiting in self._waiting.values():
                waiting.close()
            self._waiting.clear()
            self._sock.close()

    def _take(self) -> None:
        """Read one message of vitrail-devices and deliver it."""
        try:
            most = limits.DEVICE_HELPER_MESSAGE_BYTES * limits.DEVICES
            got = fdpass.receive(self._sock, most, 1)
        except BlockingIOError:
            return
        except fdpass.DescriptorsLostError as error:
            # guard: a device without a descriptor ends no other device
            got = fdpass.Received(error.data, ())
        if not got.data:
            raise UpstreamError(_CLOSED, hint=_HINT)
        fd = got.fds[0] if got.fds else -1
        try:
            reply = messages.decode_reply(got.data)
            fd = self._deliver(reply, fd)
        finally:
            if fd >= 0:
                fdpass.close_all([fd])

    def _deliver(self, reply: messages.Reply, fd: int) -> int:
        """Deliver a message: call back for an event, or wake the waiting task.

        Returns the descriptor if no task has taken it.
        """
        match reply:
            case messages.Changed():
                self._changed()
            case messages.Ended():
                self._ended(reply.attachment, reply.reason)
            case _:
                waiting = self._waiting.pop(reply.id, None)
                if waiting is not None:
                    waiting.send_nowait(DeviceReply(reply, fd))
                    return -1
                self._refuse(reply)
        return fd

    def _refuse(self, reply: messages.Reply) -> None:
        """Take an answer for which no task waits."""
        # guard: a late device is taken back
        if isinstance(reply, messages.Attached) and self._late is not None:
            self._late.start_soon(self._give_back, reply.attachment)

    async def _give_back(self, attachment: str) -> None:
        """Detach a device whose attachment no task waits for any more.

        Its permission is over, and no other part knows that the guest has it.
        """
        with suppress(RefusedError, UpstreamError):  # it has ended already
            await self.detach(attachment)

    async def _ask(
        self, request: messages.Request, kind: type[_Reply], fds: tuple[int, ...] = ()
    ) -> tuple[_Reply, int]:
        """Send a request; return its reply and descriptor (-1: none).

        If it is given up, a device that still arrives is detached.  Raises RefusedError
        for a denial, UpstreamError without an answer.
        """
        put, take = trio.open_memory_channel[DeviceReply](1)
        self._waiting[request.id] = put
        with trio.move_on_after(limits.DEVICE_ATTACH_SECONDS):
            try:
                await self._send(messages.encode(request), fds)
                answer = await take.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError, OSError) as error:
                raise UpstreamError(_CLOSED, hint=_HINT) from error
            finally:
                self._waiting.pop(request.id, None)
                self._drop(take)
            if isinstance(answer.reply, messages.DeviceRefused):
                raise RefusedError(answer.reply.message, hint=answer.reply.hint)
            if not isinstance(answer.reply, kind):
                raise UpstreamError("vitrail-devices sent an unexpected reply")
            return answer.reply, answer.fd
        raise UpstreamError(
            f"vitrail-devices did not answer within {limits.DEVICE_ATTACH_SECONDS:g} s"
        )

    def _drop(self, take: trio.MemoryReceiveChannel[DeviceReply]) -> None:
        # guard: a device that comes as its task is given up is taken back
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            late = take.receive_nowait()
            self._refuse(late.reply)
            fdpass.close_all([late.fd] if late.fd >= 0 else [])

    async def _send(self, data: bytes, fds: tuple[int, ...]) -> None:
        """Send one request to vitrail-devices, whole before the next one."""
        async with self._lock:
            await when_ready(
                lambda: fdpass.send(self._sock, data, fds),
                trio.lowlevel.wait_writable,
                self._sock,
            )

    async def devices(self) -> messages.Devices:
        """Return the plugged-in devices.  Raises UpstreamError.

        Sends ``vitrail-devices`` a request and waits for its answer.
        """
        request = messages.ListDevices(next(self._numbers))
        return (await self._ask(request, messages.Devices))[0]

    async def export(
        self, number: int, sandbox: str, lease: str, conn: socket.socket
    ) -> messages.Attached:
        """Hand a device to a guest's socket by usbip.

        Raises RefusedError, UpstreamError.  The socket stays the caller's.
        """
        request = messages.Attach(next(self._numbers), number, sandbox, lease, "usbip")
        return (await self._ask(request, messages.Attached, (conn.fileno(),)))[0]

    async def node(
        self, number: int, sandbox: str, lease: str
    ) -> tuple[messages.Attached, int]:
        """Return a device's open node, the caller's to close.  Raises as ``export``."""
        request = messages.Attach(next(self._numbers), number, sandbox, lease, "node")
        made, fd = await self._ask(request, messages.Attached)
        if fd < 0:
            self._refuse(made)
            raise UpstreamError("vitrail-devices sent a reply without a device node")
        return made, fd

    async def machine(self, sandbox: str) -> messages.MachineWay:
        """Return how a sandbox's machine takes a device.  Raises as ``export``.

        Sends ``vitrail-devices`` a request and waits for its answer.
        """
        request = messages.FindMachine(next(self._numbers), sandbox)
        return (await self._ask(request, messages.MachineWay))[0]

    async def detach(self, attachment: str) -> None:
        """Take an attached device back.  Raises RefusedError, UpstreamError."""
        request = messages.Detach(next(self._numbers), attachment)
        await self._ask(request, messages.DeviceDone)


def connect(
    *,
    changed: Callable[[], None],
    ended: Callable[[str, str], None],
    path: Path | None = None,
) -> DeviceClient:
    """Connect to ``vitrail-devices``.  Raises SetupError when it does not run."""
    path = path or socket_path()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            # guard: a service that does not accept is not waited for
            sock.settimeout(0)
            sock.connect(str(path))
            own = socket.socket(fileno=sock.detach())
    # guard: a host without descriptors asks for devices again
    except OSError as error:
        raise SetupError(
            f"vitrail-devices does not answer at {path}: {error.strerror}", hint=_HINT
        ) from error
    return DeviceClient(own, changed=changed, ended=ended)
