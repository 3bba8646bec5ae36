"""Processes that a guest has taken over, and that never stop talking to the broker."""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.lease import Opening
from broker.core.limits import devices as device_limits
from broker.core.services import SECURITY_KEY
from broker.host.vmm.qmp import Qmp
from broker.viewer.security_keys import security_keys
from broker.viewer.security_keys.shared_key import SharedKey
from tests.kit.rulebook import WORK

EVENT = b'{"event":""}\n'
SECONDS = 20


class Flood(trio.abc.HalfCloseableStream):
    """A monitor that has an event ready whenever it is asked, up to ``size`` bytes."""

    def __init__(self, size):
        self.left = size
        self.most = 0

    async def receive_some(self, max_bytes=None):
        await trio.lowlevel.checkpoint()
        data = EVENT * (min(max_bytes, self.left) // len(EVENT))
        self.left -= len(data)
        self.most = max(self.most, len(data))
        return data

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def send_eof(self):
        await trio.lowlevel.checkpoint()

    async def aclose(self):
        await trio.lowlevel.checkpoint()


async def test_flood_of_a_monitors_events_is_read_slowly(autojump_clock):
    stream = Flood(limits.QMP_BURST_BYTES + SECONDS * limits.QMP_BYTES_PER_SECOND)
    begin = trio.current_time()
    with pytest.raises(UpstreamError, match="closed the monitor"):
        await Qmp(stream).run()
    assert trio.current_time() - begin > SECONDS - 1
    assert stream.most <= limits.QMP_READ_BYTES, "other tasks run in between"


class _Silent:
    """A decider that never answers."""

    @staticmethod
    @asynccontextmanager
    async def permit(_request):
        async with trio.open_nursery():
            yield SimpleNamespace(warrant=b"")


async def test_guest_that_asks_and_cancels_is_read_slowly(autojump_clock):
    """Each round is a question and its end, from the process that reads the guest."""
    seconds = 5
    count = device_limits.SECURITY_KEY_MESSAGES_BURST
    count += seconds * device_limits.SECURITY_KEY_MESSAGES_PER_SECOND
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(0)
        for number in range(1, count // 2 + 1):
            theirs.send(json.dumps({"ask": number, "what": "sign in"}).encode())
            theirs.send(json.dumps({"over": number}).encode())
        theirs.close()
        begin = trio.current_time()
        opening = Opening(WORK, SECURITY_KEY, 1, "cid 20")
        await security_keys._Questions(
            opening, _Silent, SharedKey(), ours, trio.sleep_forever
        ).serve()
    assert trio.current_time() - begin > seconds - 1
