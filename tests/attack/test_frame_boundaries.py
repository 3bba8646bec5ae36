"""Payload of a permitted frame must not become another frame in passt.

Passt before August 2024 (Debian 12's) reads QEMU's stream so: one recv(2) for what is
there, and where that ends inside a frame one more for its rest.  If the rest is not
whole then, it forgets that it was inside a frame: what it reads next, bytes that the
filter has passed as payload, is a length and a frame to it.  The kernel ends a read
wherever one of its buffers ends, so these ends must be ends of frames.
"""

from __future__ import annotations

import random
import shutil
import socket
import struct
import threading
import time
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.cli.doctor.host import passt_words
from broker.core import limits
from broker.host.network import passt as network
from broker.host.network.frameguard import frameguard
from broker.host.network.frameguard.ethernet_frames import FrameFilter, joined

MACS = bytes.fromhex("9a559a559a55") + bytes.fromhex("525400123456")
BUFFERS = (36_544, 48_832)
"""What kernels put into one buffer of a UNIX stream: 32 KiB in pages, and one page or
four (Linux 6.18) without the buffer's own fields."""


def packet(target: str, payload: bytes, *, port: int = 9) -> bytes:
    """One UDP datagram as an Ethernet frame; a checksum of 0 is not looked at."""
    udp = struct.pack(">HHHH", 40000, port, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    head += IPv4Address(network.GUEST).packed + IPv4Address(target).packed
    words = struct.unpack(">10H", head)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~total & 0xFFFF) + head[12:]
    return MACS + b"\x08\x00" + head + udp


def framed(frame: bytes) -> bytes:
    return struct.pack(">I", len(frame)) + frame


def carrier(size: int, *, port: int = 9) -> bytes:
    """A datagram to elsewhere: zeros, which passt steps over, and a frame to us.

    Wherever in the zeros passt takes up reading, four bytes at a time, it comes to
    the length of the inner frame, and is in step again after it.
    """
    inner = framed(packet("127.0.0.1", b"inside", port=port))
    room = size - len(packet("192.0.2.9", b"")) - len(inner)
    return packet("192.0.2.9", bytes(room) + inner)


class OldPasst:
    """What passt of 2023 takes for frames, of a stream in the kernel's buffers."""

    def __init__(self, buffers: list[bytes], chance: random.Random) -> None:
        self._buffers = list(buffers)
        self._chance = chance
        self.frames: list[bytes] = []

    def run(self) -> list[bytes]:
        while self._buffers:
            together = self._chance.randint(1, 3)
            self._input(b"".join(self._take() for _ in range(together)))
        return self.frames

    def _take(self, most: int = 1 << 23) -> bytes:
        if not self._buffers:
            return b""
        whole = self._buffers.pop(0)
        if whole[most:]:
            self._buffers.insert(0, whole[most:])
        return whole[:most]

    def _input(self, data: bytes) -> None:
        at = 0
        while len(data) - at > 4:
            (size,) = struct.unpack_from(">I", data, at)
            at += 4
            if size > len(data) - at:
                data += self._take(size - (len(data) - at))
                if len(data) - at != size:
                    return
            if 14 <= size <= 65535:
                self.frames.append(data[at : at + size])
            at += size


class Recorded(socket.socket):
    """A stream socket that keeps the kernel's buffers of the sends."""

    size: int
    buffers: list[bytes]

    def send(self, data, flags=0):
        sent = super().send(data, flags)
        taken = bytes(data[:sent])
        self.buffers += (taken[i : i + self.size] for i in range(0, sent, self.size))
        return sent


class NoAddresses:
    def __init__(self) -> None:
        self.news, self._other = socket.socketpair()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.news.close()
        self._other.close()

    def read(self):
        return frozenset()


def buffers_of(
    stream: bytes, size: int, kind: type[Recorded] = Recorded
) -> list[bytes]:
    """Have the filter's process, as a thread, carry this; returns passt's buffers."""
    qemu, outer = socket.socketpair()
    inner, passt = socket.socketpair()
    with qemu, outer, passt, kind(fileno=inner.detach()) as it, NoAddresses() as none:
        it.size, it.buffers = size, []
        guard = frameguard.FrameGuard(outer, it, none)

        def carry():
            guard.run()
            outer.close()
            it.close()

        carrying = threading.Thread(target=carry, daemon=True)
        reading = threading.Thread(target=_read, args=(passt, len(stream)), daemon=True)
        carrying.start()
        reading.start()
        with suppress(ConnectionError):
            qemu.sendall(stream)
        reading.join(30)
        qemu.close()
        carrying.join(30)
        assert not carrying.is_alive()
        assert not reading.is_alive()
        return it.buffers


def _read(passt: socket.socket, size: int) -> None:
    while size and (data := passt.recv(1 << 16)):
        size -= len(data)


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("size", [1214, 1248, 1474, 9000, 31990, 40000, 65530])
def test_payload_does_not_become_a_frame(size, buffer):
    """With 1214 and 1248 a buffer ends after a length; 65530 needs three buffers."""
    sent = [carrier(size)] * (2_000_000 // size)
    buffers = buffers_of(b"".join(map(framed, sent)), buffer)
    for seed in range(8):
        taken = OldPasst(buffers, random.Random(seed)).run()
        assert all(FrameFilter().may_pass(frame) for frame in taken)
        assert taken == sent


@settings(deadline=None)
@given(
    st.lists(st.integers(60, limits.FRAME_BYTES - 15), min_size=1, max_size=30),
    st.integers(0, 99),
)
def test_whatever_the_sizes_are(sizes, seed):
    frames = [bytes([number]) * size for number, size in enumerate(sizes, 1)]
    buffers = joined(map(framed, frames))
    assert all(len(data) <= min(BUFFERS) for data in buffers)
    assert OldPasst(buffers, random.Random(seed)).run() == frames


def test_a_send_that_is_not_taken_whole_ends_the_network():
    class Short(Recorded):
        def send(self, data, flags=0):
            return super().send(data[: len(data) // 2], flags)

    sent = framed(carrier(1470)) * 100
    buffers = buffers_of(sent, BUFFERS[0], Short)
    assert len(buffers) == 1, "it went on out of step"


def test_a_socket_that_cuts_sooner_is_refused(monkeypatch):
    """Where an administrator has made buffers small, there is no network."""
    outer, inner = socket.socketpair()

    class Small(socket.socket):
        def setsockopt(self, *_):
            super().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)

    with (
        outer,
        Small(fileno=inner.detach()) as small,
        NoAddresses() as none,
        pytest.raises(OSError, match="buffer"),
    ):
        frameguard.FrameGuard(outer, small, none)


@pytest.mark.parametrize(
    ("version", "named"),
    [
        ("passt unknown version\nCopyright Red Hat", True),
        ("passt 0.0~git20230309.7c7625d-1", True),
        ("passt 2024_07_26.57a21d2-1", True),
        ("passt 2024_08_06.ee36266", False),
        ("passt 0.0~2025_05_03.587980c-2", False),
    ],
)
def test_doctor_names_a_passt_that_loses_its_place(version, named):
    assert ("misinterpret a frame boundary" in passt_words(version)) is named


@pytest.mark.long
@pytest.mark.alone
async def test_a_real_passt_sends_nothing_to_our_loopback():
    """The guest is this test: it writes what QEMU would write.

    Without the guards a datagram came after 6 and 15 s, with Debian 12's passt.
    """
    passt = shutil.which("passt")
    if passt is None:
        pytest.skip("passt is not installed")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("127.0.0.1", 0))
        ours.settimeout(0)
        net = network.start_user_network(Path(passt))
        try:
            _flood(net.conn, ours.getsockname()[1])
        finally:
            await net.end()
        with pytest.raises(BlockingIOError):
            ours.recv(100)


def _flood(conn: socket.socket, port: int) -> None:
    chance = random.Random(1)
    conn.settimeout(20)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        run = framed(carrier(chance.choice((1248, 65000, 65000)), port=port))
        conn.sendall(run * chance.randint(1, 100))
