"""A guest's vsock driver that obeys nothing, in front of vhost-device-vsock.

It is QEMU and the guest's kernel in one: it gives the process its memory and queues by
vhost-user, sends what packets it likes, and takes none unless it is told to.

Sources: the VIRTIO specification 1.2 (2.7 split virtqueues, 5.10 socket device), QEMU's
docs/interop/vhost-user.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct

BYTES = 1 << 20
SIZE = 256
"""Packets in a queue."""
HEADER = struct.Struct("<QQIIIHHIII")
HOST = 2
REQUEST, RESPONSE, RESET, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = range(1, 8)
_STREAM = 1
_USER = 0x10000000
"""Where QEMU would have the memory mapped."""
_GET_FEATURES, _SET_FEATURES, _SET_OWNER, _SET_MEMORY = 1, 2, 3, 5
_NUM, _ADDRESS, _BASE, _KICK, _CALL = 8, 9, 10, 12, 13
_GET_PROTOCOL, _SET_PROTOCOL, _ENABLE = 15, 16, 18
_PROTOCOL, _VERSION_1 = 1 << 30, 1 << 32
_RX, _TX, _EVENTS = range(3)
_QUEUE = 0x10000
"""Bytes for the parts of one queue: descriptors, then these."""
_AVAILABLE, _USED = 0x4000, 0x8000
_PACKETS = 0x80000


class VsockDriver:
    """The driver; ``cid`` is its guest's."""

    def __init__(self, conn: socket.socket, cid: int) -> None:
        conn.settimeout(20)
        self._conn = conn
        self._cid = cid
        self._fd = os.memfd_create("guest")
        os.ftruncate(self._fd, BYTES)
        self._memory = mmap.mmap(self._fd, BYTES)
        self._kicks = [os.eventfd(0) for _ in range(3)]
        self._calls = [os.eventfd(0) for _ in range(3)]
        self._sent = 0
        self._begin()

    def _begin(self) -> None:
        self._send(_SET_OWNER)
        features = self._ask(_GET_FEATURES)
        assert features & _VERSION_1
        self._ask(_GET_PROTOCOL)
        self._send(_SET_PROTOCOL, struct.pack("<Q", 0))
        self._send(_SET_FEATURES, struct.pack("<Q", _VERSION_1 | _PROTOCOL))
        region = struct.pack("<IIQQQQ", 1, 0, 0, BYTES, _USER, 0)
        self._send(_SET_MEMORY, region, self._fd)
        for number in (_RX, _TX):
            base = _USER + number * _QUEUE
            self._send(_NUM, struct.pack("<II", number, SIZE))
            self._send(_BASE, struct.pack("<II", number, 0))
            places = (base, base + _USED, base + _AVAILABLE, 0)
            self._send(_ADDRESS, struct.pack("<IIQQQQ", number, 0, *places))
            self._send(_CALL, struct.pack("<Q", number), self._calls[number])
            self._send(_KICK, struct.pack("<Q", number), self._kicks[number])
            self._send(_ENABLE, struct.pack("<II", number, 1))
        for slot in range(SIZE):
            at = _PACKETS + slot * 64
            part = struct.pack("<QIHH", at, HEADER.size, 0, 0)
            self._put(_TX * _QUEUE + slot * 16, part)
            entry = _TX * _QUEUE + _AVAILABLE + 4 + slot * 2
            self._put(entry, struct.pack("<H", slot))

    def _send(self, request: int, body: bytes = b"", fd: int = -1) -> None:
        head = struct.pack("<III", request, 1, len(body))
        socket.send_fds(self._conn, [head + body], [fd] if fd >= 0 else [])

    def _ask(self, request: int) -> int:
        self._send(request)
        answer = self._conn.recv(20, socket.MSG_WAITALL)
        return int(struct.unpack("<IIIQ", answer)[3])

    def _put(self, at: int, data: bytes) -> None:
        self._memory[at : at + len(data)] = data

    def packet(self, slot: int, op: int, source: int, port: int) -> None:
        """Write a packet into a slot of the queue that the guest sends from."""
        head = HEADER.pack(
            *(self._cid, HOST, source, port, 0, _STREAM, op, 0, 1 << 16, 0)
        )
        self._put(_PACKETS + slot * 64, head)

    def send(self, count: int = SIZE) -> None:
        """Send the next ``count`` slots; return when all have been read.

        Raises ConnectionError where the process ends instead.
        """
        self._sent = self._sent + count & 0xFFFF
        at = _TX * _QUEUE + _AVAILABLE
        self._put(at + 2, struct.pack("<H", self._sent))
        os.eventfd_write(self._kicks[_TX], 1)
        used = _TX * _QUEUE + _USED + 2
        while struct.unpack_from("<H", self._memory, used)[0] != self._sent:
            ready, _, _ = select.select([self._calls[_TX], self._conn], [], [], 60)
            if self._calls[_TX] not in ready:
                raise ConnectionError("vhost-device-vsock reads nothing more")
            os.eventfd_read(self._calls[_TX])

    def close(self) -> None:
        """Close its memory, queues and connection."""
        self._memory.close()
        for fd in (self._fd, *self._kicks, *self._calls):
            os.close(fd)
        self._conn.close()
