"""Shipping to a real journald, and to a socket that is read by systemd's rules."""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
import struct
from pathlib import Path

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.core.errors import UpstreamError, VitrailError
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper import journald as native
from broker.helpers.shipper.config import JournaldTarget
from broker.helpers.shipper.cursor import load_cursor
from broker.helpers.shipper.run import ship_for_ever, ship_once
from broker.ipc.audit import schema
from tests.kit.audit.journald import journald
from tests.kit.audit.shipping import bodies, filled, place, record
from tests.kit.eventually import eventually


async def ship(directory: Path, socket_path: str) -> dict:
    told: dict[str, int | VitrailError] = {}
    target = JournaldTarget("journal", socket_path)
    await ship_once(place(directory), [target], told.__setitem__)
    return told


def text(value: object) -> str:
    """journalctl shows other values than plain text as a list of bytes."""
    return bytes(value).decode() if isinstance(value, list) else str(value)


async def test_journald_has_every_event_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_limits, "SHIP_JOURNALD_PER_SECOND", 2000.0)
    stop = trio.Event()
    async with journald() as journal:
        async with open_store(tmp_path / "audit.sqlite") as store:
            await record(store, 1, 200)
            # One that fits into no datagram goes as a memory file.
            await store.record(schema.PolicyRefused(problems=["x:1:1: " + "ä" * 28000]))
            async with trio.open_nursery() as nursery:
                target = JournaldTarget("journal", journal.socket)
                nursery.start_soon(ship_for_ever, place(tmp_path), [target], stop)
                await _has(journal, 201)
                await journal.stop()
                await record(store, 202, 99)
                await _problem(tmp_path)
                await journal.start()
                await _has(journal, 300)
                stop.set()
        entries = await journal.entries("SYSLOG_IDENTIFIER=vitrail")
        entries.sort(key=lambda entry: int(entry["VITRAIL_SEQUENCE"]))
        assert [text(e["VITRAIL_EVENT"]) for e in entries] == bodies(tmp_path)
        assert len({e["VITRAIL_RECORD"] for e in entries}) == 300
        for entry in entries:
            event = json.loads(text(entry["VITRAIL_EVENT"]))
            assert entry["MESSAGE_ID"] == native.message_id(event["kind"])
            assert text(entry["MESSAGE"]).startswith(event["kind"])
            assert text(entry.get("VITRAIL_REASON", "")) == event.get("reason", "")
            refused = (
                event.get("verdict") == "deny" or event["kind"] == "policy.refused"
            )
            assert entry["PRIORITY"] == ("4" if refused else "5")
        denied = await journal.entries("VITRAIL_VERDICT=deny")
        assert len(denied) == sum(
            json.loads(body).get("verdict") == "deny" for body in bodies(tmp_path)
        )


async def _has(journal, count: int) -> None:
    """Wait until the journal has so many events."""

    async def look() -> bool:
        return len(await journal.entries("SYSLOG_IDENTIFIER=vitrail")) >= count

    await eventually(look)


async def _problem(directory: Path) -> None:
    await eventually(
        lambda: load_cursor(directory / "ship", "journal").problem, deadline=60
    )


def parse(data: bytes) -> dict[str, bytes]:
    """By the rules of JOURNAL_NATIVE_PROTOCOL: what journald would make of it."""
    fields: dict[str, bytes] = {}
    while data:
        line, found, rest = data.partition(b"\n")
        assert found
        name, equal, value = line.partition(b"=")
        if equal:
            data = rest
        else:
            (size,) = struct.unpack_from("<Q", rest)
            value, end = rest[8 : 8 + size], rest[8 + size : 9 + size]
            assert len(value) == size
            assert end == b"\n"
            data = rest[9 + size :]
        assert name.decode() not in fields, name
        fields[name.decode()] = value
    return fields


def receive(sock: socket.socket) -> bytes:
    """A datagram, or the sealed memory file that came instead of one."""
    data, rights, _flags, _address = sock.recvmsg(1 << 20, socket.CMSG_SPACE(4))
    if not rights:
        return data
    assert data == b""
    fds = array.array("i")
    fds.frombytes(rights[0][2])
    (fd,) = fds
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        for seal in ("SEAL", "SHRINK", "GROW", "WRITE"):
            assert seals & getattr(fcntl, f"F_SEAL_{seal}")
        return os.pread(fd, 1 << 24, 0)
    finally:
        os.close(fd)


async def test_the_bytes_are_those_of_the_native_protocol(tmp_path: Path) -> None:
    async with open_store(tmp_path / "audit.sqlite") as store:
        await store.record(schema.StreamRefused(reason="a\nFAKE=1\n\x1b[31m", count=3))
        await store.record(schema.LeaseEnd(detail={"a": 1}))
        await store.record(schema.PolicyLoaded(policy="00", files=["a", "b"], rules=2))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.bind(str(tmp_path / "socket"))
        assert await ship(tmp_path, str(tmp_path / "socket")) == {"journal": 3}
        first, second, third = (parse(receive(sock)) for _ in range(3))
    finally:
        sock.close()
    # The line end in a sandbox's word makes no further field.
    assert "FAKE" not in first
    assert first["VITRAIL_REASON"] == b"a\nFAKE=1\n\x1b[31m"
    assert b"\x1b" not in first["MESSAGE"]
    assert b"\n" not in first["MESSAGE"]
    assert first["VITRAIL_COUNT"] == b"3"
    assert second["VITRAIL_KIND"] == b"lease.end"
    assert "VITRAIL_DETAIL" not in second
    assert third["VITRAIL_FILES"] == b"a, b"
    assert third["VITRAIL_EVENT"].decode() == bodies(tmp_path)[2]


async def test_too_large_for_a_datagram(tmp_path: Path) -> None:
    async with open_store(tmp_path / "audit.sqlite") as store:
        await store.record(schema.PolicyRefused(problems=["y" * 60000]))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    send = native.socket.socket

    class Small(send):  # a kernel with a small buffer for datagrams
        def __init__(self, *words: object, **named: object) -> None:
            super().__init__(*words, **named)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    try:
        sock.bind(str(tmp_path / "socket"))
        native.socket.socket = Small
        try:
            assert await ship(tmp_path, str(tmp_path / "socket")) == {"journal": 1}
        finally:
            native.socket.socket = send
        fields = parse(receive(sock))
    finally:
        sock.close()
    assert fields["VITRAIL_EVENT"].decode() == bodies(tmp_path)[0]


async def test_no_journald(tmp_path: Path) -> None:
    await filled(tmp_path, 3)
    told = (await ship(tmp_path, str(tmp_path / "nothing")))["journal"]
    assert isinstance(told, UpstreamError)
    assert "journald" in str(told)


def test_names_that_journald_would_not_take_are_left_out() -> None:
    sent = parse(native.encode([("A", "1"), ("_B", "2"), ("c", "3"), ("", "4"),
                                ("9D", "5"), ("A" * 65, "6"), ("E F", "7"), ("A2_", "8")]))  # fmt: skip
    assert sent == {"A": b"1", "A2_": b"8"}
