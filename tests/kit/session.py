"""Orders of a viewer with the user's rights, carried out by a real starter."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import msgspec
import pytest

from broker.authority.permit import Permit, Request
from broker.core.files.opened_folder import folder_argument, folder_object
from broker.core.services import AUDIO, CAMERA, FILE_COPY, FOLDER, SECURITY_KEY
from broker.helpers.process.fork_handle import ForkServerHandle
from broker.helpers.process.popen import start_process
from broker.helpers.process.spawn import Child
from broker.ipc.control.forwarded import CallWarrant
from broker.ipc.control.types.status_rows import ProcessStatus
from broker.ipc.session import file_orders as files
from broker.ipc.session import folder_orders as folders
from broker.ipc.session import media_orders as media
from broker.ipc.session.bus_orders import HoldPermit
from broker.ipc.session.order_rows import ROWS
from broker.ipc.session.permit_warrant import OF_REQUEST, PermitWarrant
from broker.ipc.session.warrant import KEY_BYTES, sign
from broker.ipc.starter import WarrantKey, encode
from broker.viewer.orders.session_orders import Begun, SessionOrders
from broker.wire import fdpass
from broker.wire.call_messages import (
    CallMessage,
    ErrorMessage,
    decode_message,
    encode_message,
)
from broker.wire.pending_call import Answer
from broker.wire.row import AnyRow, Row

_SERVES = f"""
import socket, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
prepare, *fds, host = sys.argv[1:]
exec(prepare)
from broker.helpers import starter
from broker.session.child import become_session_child
from broker.session.used_warrants import UsedWarrants
host = socket.socket(fileno=int(host))
control, session = (socket.socket(fileno=int(fd)) for fd in fds[:2])
used = UsedWarrants()
def carry_out(key, fds):
    become_session_child(key, fds, host.fileno(), used)
starter.serve_authority(control, session, carry_out)
"""

_ROWS: Mapping[type[Any], AnyRow] = MappingProxyType(
    {row.request: row for row in ROWS.values()}
)
_SERVICES: Mapping[type[Any], str] = MappingProxyType(
    {
        files.StoreFiles: FILE_COPY,
        media.ConnectSound: AUDIO,
        media.FindCamera: CAMERA,
        media.OpenSecurityKey: SECURITY_KEY,
        media.TakeCamera: CAMERA,
    }
)
"""Of the permits that orders need."""


class SigningSession(SessionOrders):
    """As a viewer's; an order without a warrant gets one, as if it were permitted.

    An authority in the test's own process signs nothing.
    """

    def __init__(
        self,
        starter: ForkServerHandle,
        key: bytes,
        control: socket.socket,
        host: socket.socket,
    ) -> None:
        super().__init__(starter)
        self.starter = starter
        self.key = key
        self.control = control
        """The authority's socket."""
        self.host = host
        """The host's end of the socket of session children."""
        self.sandbox = "work"
        """For which folders are."""

    def call(
        self,
        method: str,
        request: msgspec.Struct | None = None,
        *,
        at: float = 0.0,
        **parameters: Any,
    ) -> bytes:
        """Return the warrant of a call of ``brokerctl``."""
        raw = msgspec.Raw(
            msgspec.json.encode(parameters if request is None else request)
        )
        method = f"io.vitrail.Broker.{method}"
        begin = CallWarrant(method, raw, False, 1, 1, at or time.monotonic())
        return sign(self.key, begin)

    def _warrant(self, order: msgspec.Struct) -> bytes:
        """Return the warrant of an order, as if it were permitted or called."""
        if type(order) is folders.OpenFolder:
            named = {"path": order.path, "sandbox": self.sandbox, "write": order.write}
            return self.call("FolderShare", **named)
        return self.permit(_SERVICES[type(order)]) if type(order) in _SERVICES else b""

    def permit(self, service: str, **fields: Any) -> bytes:
        """Return a warrant; ``fields`` differ from a desktop's permit."""
        warrant = PermitWarrant(
            time.monotonic(), "web-1", "web", "@adminvm", (), "", service, "+"
        )
        return sign(self.key, msgspec.structs.replace(warrant, **fields))

    @asynccontextmanager
    async def carrying_out(
        self, first: Any, second: Any = (), fds: Any = (), *, warrant: bytes = b""
    ) -> AsyncIterator[Begun[Any]]:
        """See ``UserSession``; a test may leave the row out, which its order tells."""
        row, order, fds, warrant = _with_row(first, second, fds, warrant)
        signed = warrant or self._warrant(order)
        async with super().carrying_out(row, order, fds, warrant=signed) as begun:
            begun.__class__ = _SigningBegun
            begun.session, begun.order = self, order  # type: ignore[attr-defined]
            yield begun

    async def carry_out(
        self, first: Any, second: Any = (), fds: Any = (), *, warrant: bytes = b""
    ) -> Answer[Any]:
        """See ``carrying_out``."""
        row, order, fds, warrant = _with_row(first, second, fds, warrant)
        return await super().carry_out(row, order, fds, warrant=warrant)

    async def refusal(
        self, name: str, body: object, fds: Sequence[int] = (), warrant: bytes = b""
    ) -> str:
        """Return the error of a call that no honest viewer makes: its bytes are sent as they are."""
        data = call_bytes(1, name, body, warrant)
        return await self.refusal_of_bytes(data, fds)

    async def refusal_of_bytes(self, data: bytes, fds: Sequence[int] = ()) -> str:
        """Return the error of a packet: its answer, or the last words of its child."""
        child, channel = await self._fork()
        try:
            await channel.send(data, fds)
            received = await channel.receive(8)
            if received.data:
                message = decode_message(received.data)
                assert isinstance(message, ErrorMessage), message
                return message.message
            await child.wait()
            assert child.words is not None
            return child.words.text(400)
        finally:
            channel.close()
            await child.wait()
            child.close()


def call_bytes(number: int, name: str, body: object, warrant: bytes = b"") -> bytes:
    """Return the packet of a call, as a viewer that was taken over makes it."""
    raw = msgspec.Raw(msgspec.msgpack.encode(body))
    return encode_message(CallMessage(number, name, raw, warrant))


class Signed(NamedTuple):
    """An order and its warrant."""

    warrant: bytes
    order: msgspec.Struct


def _with_row(
    first: Any, second: Any, fds: Any, warrant: bytes
) -> tuple[AnyRow, Any, Any, bytes]:
    if isinstance(first, Row):
        return first, second, fds, warrant
    if isinstance(first, Signed):
        warrant, first = first
    return _ROWS[type(first)], first, fds or second, warrant


def permit_of(lease: Any, service: str = AUDIO) -> Permit:
    """Return a permit for the user's desktop, without a warrant."""
    request = Request(lease=lease, service=service)
    return Permit(request, "@adminvm", "", None, False, None, 0.0, None)


class SigningPermits:
    """A decider whose permits have warrants, as those of an authority."""

    def __init__(self, session: SigningSession, decider: Any) -> None:
        self._session, self._decider = session, decider

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decider, name)

    @asynccontextmanager
    async def permit(self, request: Request, **more: Any) -> AsyncIterator[Permit]:
        """See ``Permits``."""
        async with self._decider.permit(request, **more) as permit:
            lease = request.lease
            fields = {name: getattr(request, name) for name in OF_REQUEST}
            permit.warrant = self._session.permit(
                **fields,
                sandbox=lease.sandbox,
                record=lease.record,
                target=permit.target,
            )
            yield permit


class _SigningBegun(Begun[Any]):
    """As ``Begun``; its further orders get warrants, too."""

    session: SigningSession
    order: msgspec.Struct

    async def more(
        self, first: Any, second: Any = (), fds: Any = (), *, warrant: bytes = b""
    ) -> Any:
        row, order, fds, warrant = _with_row(first, second, fds, warrant)
        if isinstance(order, folders.GiveFolder) and not warrant:
            assert isinstance(self.order, folders.OpenFolder)
            name = self.session.sandbox
            path = Path(os.fsdecode(self.value.path))
            warrant = self.session.permit(
                FOLDER,
                sandbox=name,
                record=getattr(self.order, "record", name),
                argument=folder_argument(path.name),
                about=folder_object(path),
                write=self.order.write,
            )
        service = _SERVICES.get(type(self.order), "")
        if isinstance(order, HoldPermit) and not warrant and service:
            warrant = self.session.permit(service, renewed=True)
        return await super().more(row, order, fds, warrant=warrant)


@contextmanager
def starter_of_orders(
    environ: Mapping[str, str] | None = None,
    prepare: str = "",
    more: Sequence[int] = (),
) -> Iterator[SigningSession]:
    """Start a starter with this environment; its children end with the block.

    ``prepare``: what it executes first, with the descriptors ``more`` in ``fds[2:]``.
    A test closes ``host`` of what is yielded, if there is to be no host here.
    """
    (control, theirs), (orders, session), (host, given) = (
        socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)
    )
    with theirs, session, given:
        fds = [theirs.fileno(), session.fileno(), *more, given.fileno()]
        argv = [sys.executable, "-c", _SERVES, prepare, *map(str, fds)]
        process = start_process(argv, env=environ, pass_fds=fds, outlive_us=True)
    key = os.urandom(KEY_BYTES)
    try:
        with control, orders, host:
            fdpass.send(control, encode(WarrantKey(key)))
            # A client of a shared server needs its number alone.
            handle = ForkServerHandle(orders, cast("Child", process))
            yield SigningSession(handle, key, control, host)
    finally:
        process.wait(60)


@pytest.fixture
def session() -> Iterator[SigningSession]:
    """A viewer's way to orders, which are carried out with this environment."""
    with starter_of_orders() as orders:
        yield orders


def rows_of(pids: Sequence[int]) -> list[ProcessStatus]:
    """Return a status's rows of processes that are to be measured."""
    return [ProcessStatus(role="worker", pid=pid) for pid in pids]
