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
from typing import Any, cast

import msgspec
import pytest

from broker.core.services import AUDIO, CAMERA, SECURITY_KEY
from broker.helpers.process.fork_client import ForkServerHandle
from broker.helpers.process.popen import start_process
from broker.helpers.process.spawn import Child
from broker.ipc import fdpass
from broker.ipc.session import media
from broker.ipc.session.messages import SessionOrder
from broker.ipc.starter import WarrantKey, encode
from broker.ipc.warrant import KEY_BYTES, PermitWarrant, sign
from broker.viewer.session_orders import Begun, SessionOrders

_SERVES = f"""
import socket, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
prepare, *fds = sys.argv[1:]
exec(prepare)
from broker.helpers import starter
from broker.session.child import become_session_child
control, session = (socket.socket(fileno=int(fd)) for fd in fds[:2])
starter.serve_authority(control, session, become_session_child)
"""

_SERVICES: Mapping[type[Any], str] = MappingProxyType(
    {
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

    def __init__(self, starter: ForkServerHandle, key: bytes) -> None:
        super().__init__(starter)
        self.key = key

    def permit(self, service: str, **fields: Any) -> bytes:
        """Return a warrant; ``fields`` differ from a desktop's permit."""
        warrant = PermitWarrant(
            time.monotonic(), "web-1", "web", service, "+", "@adminvm"
        )
        return sign(self.key, msgspec.structs.replace(warrant, **fields))

    @asynccontextmanager
    async def carrying_out(
        self, order: SessionOrder, fds: Sequence[int] = ()
    ) -> AsyncIterator[Begun]:
        """See ``Session``."""
        if getattr(order, "warrant", None) == b"" and type(order) in _SERVICES:
            warrant = self.permit(_SERVICES[type(order)])
            order = msgspec.structs.replace(order, warrant=warrant)
        async with super().carrying_out(order, fds) as begun:
            yield begun


@contextmanager
def starter_of_orders(
    environ: Mapping[str, str] | None = None,
    prepare: str = "",
    more: Sequence[int] = (),
) -> Iterator[SigningSession]:
    """Start a starter with this environment; its children end with the block.

    ``prepare``: what it executes first, with the descriptors ``more`` in ``fds[2:]``.
    """
    (control, theirs), (orders, session) = (
        socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)
    )
    with theirs, session:
        fds = [theirs.fileno(), session.fileno(), *more]
        argv = [sys.executable, "-c", _SERVES, prepare, *map(str, fds)]
        process = start_process(argv, env=environ, pass_fds=fds, outlive_us=True)
    key = os.urandom(KEY_BYTES)
    try:
        with control, orders:
            fdpass.send(control, encode(WarrantKey(key)))
            # A client of a shared server needs its number alone.
            yield SigningSession(ForkServerHandle(orders, cast("Child", process)), key)
    finally:
        process.wait(60)


@pytest.fixture
def session() -> Iterator[SigningSession]:
    """A viewer's way to orders, which are carried out with this environment."""
    with starter_of_orders() as orders:
        yield orders
