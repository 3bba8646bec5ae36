"""The carrier of sealed records, at one end."""

from __future__ import annotations

import socket

from broker.net.link.sealed_records import SealedRecords
from broker.net.link_service.sealed import Sealed
from tests.kit.link.pair import sessions


async def test_nothing_is_received_after_the_last_message():
    """Also what came in one packet with it."""
    near, far = sessions()
    records = SealedRecords(far)
    received = records.seal(b"bye") + records.seal(b"more")
    near_sock, far_sock = socket.socketpair()
    with near_sock, far_sock:
        near_sock.setblocking(False)
        carrier = Sealed(near, near_sock, received)
        assert (await carrier.receive()).data == b"bye"
        carrier.close()
        assert (await carrier.receive()).data == b""
