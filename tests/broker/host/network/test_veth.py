"""The network helper of a box: the program that lays the cable."""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

import pytest

from broker.host.network.frameguard import veth
from broker.host.network.frameguard.frameguard import Addresses


@pytest.fixture
def namespace():
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_ip_is_found_where_only_administrators_have_it(
    namespace, tmp_path, monkeypatch
):
    """Helpers have a PATH without /usr/sbin, where some systems install it."""
    program = tmp_path / "ip"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/batch\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setattr(veth, "_PLACES", f"/nonexistent:{tmp_path}")
    veth.run_ip("link set lo up\n", namespace)
    assert (tmp_path / "batch").read_text() == "link set lo up\n"


def test_a_missing_ip_is_named(namespace, tmp_path, monkeypatch):
    monkeypatch.setattr(veth, "_PLACES", str(tmp_path))
    with pytest.raises(OSError, match="'ip' is not installed"):
        veth.run_ip("link set lo up\n", namespace)


def test_an_error_of_ip_is_the_reason(namespace, tmp_path, monkeypatch):
    program = tmp_path / "ip"
    program.write_text("#!/bin/sh\necho 'Unknown device type.' >&2; exit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(veth, "_PLACES", str(tmp_path))
    with pytest.raises(OSError, match="ip: Unknown device type"):
        veth.run_ip("link add a type veth\n", namespace)


def test_a_box_that_takes_nothing_holds_few_frames_and_then_gets_them_in_order():
    """No frame of passt is lost for want of room, as passt sends it again late."""
    packets, box = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    passt, theirs = socket.socketpair()
    with packets, box, passt, theirs:
        addresses = Addresses()
        guard = veth.PacketGuard(packets, passt, addresses)
        addresses.news.close()
        addresses._asking.close()
        frames = [number.to_bytes(4) * 200 for number in range(20_000)]
        for frame in frames:
            guard._put(frame)
        assert guard._waits(packets)
        assert guard._poll_events(passt) & select.POLLIN == 0, (
            "passt is not read meanwhile"
        )
        box.settimeout(0)
        got = []
        while guard._waits(packets):
            got.append(box.recv(1000))
            guard._flush(packets)
        with suppress(BlockingIOError):
            while frame := box.recv(1000):
                got.append(frame)
        assert got == frames[: len(got)]
        assert 4096 <= len(got) < 8192
