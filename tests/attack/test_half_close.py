"""A far end that half-closes, and one that resets, where the transport has both.

A micro VM cannot show either: hybrid vsock has no half-close, and its backend
turns a reset into an end.  So these streams come over plain UNIX sockets, from
a machine and a container that others lease.  Invariant 9: whatever ends, ends
cleanly, an error is never reported as an end, and nothing leaks.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import asynccontextmanager

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.ipc.control.api import LeaseRequest
from broker.ipc.control.methods import LEASE_ACQUIRE
from broker.net.peers.credentials import pid_namespaces_of_self
from tests.kit.eventually import eventually
from tests.kit.records import external_record
from tests.kit.vm.siege import HEADER, calm, settled
from tests.kit.world import record, world

RECORD = external_record('{} = "{}"')
# As a waypipe server would say it: the header, then get_registry.
_REGISTRY = struct.pack("<III", 1, 12 << 16 | 1, 2)
SESSION = HEADER + struct.pack("<I", (4 + len(_REGISTRY)) << 5) + _REGISTRY


@asynccontextmanager
async def leased():
    """A machine whose VMM is this test; gives its world and its display socket."""
    async with world({"app": record()}, image=False) as w:
        directory = w.base / "sockets"
        directory.mkdir(mode=0o700)
        base = directory / "vm.vsock"
        w.write_record("box", RECORD.format("hybrid", base))
        async with w.client() as client:
            await client.call(
                LEASE_ACQUIRE,
                LeaseRequest(record="box", hybrid=str(base), leader=os.getpid()),
            )
        door = f"{base}_6501"
        # The worker starts with the first stream.
        await (await talk(door)).aclose()
        await ended(w, 1)
        yield w, door


async def talk(door):
    """Open a session, and wait until the compositor's globals are on their way."""
    stream = await trio.open_unix_socket(door)
    await stream.send_all(SESSION)
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(stream.socket)
    return stream


async def drain(stream):
    """All bytes until the end; raises BrokenResourceError on a reset."""
    said = b""
    with trio.fail_after(60):
        while more := await stream.receive_some():
            said += bytes(more)
    return said


async def ended(w, number):
    """The newest of so many closed streams."""

    async def look():
        found = w.events("stream.closed", sandbox="box")
        return found if len(found) == number else []

    return (await eventually(look))[-1]


async def test_a_half_close_lets_the_answer_through():
    """It has sent everything; bytes on their way to it still arrive."""
    async with leased() as (w, door):
        before = await calm(w)
        for number in range(2, 6):
            async with await talk(door) as stream:
                await stream.send_eof()
                said = await drain(stream)
            assert said, "the globals"
            event = await ended(w, number)
            assert event["reason"] == "end", "no error: both sides said all they had"
            assert event["bytes_from_sandbox"] == len(SESSION)
            assert event["bytes_to_sandbox"] == len(said)
        await settled(w, before)


@pytest.mark.parametrize("words", [HEADER, SESSION], ids=["header", "session"])
async def test_a_half_close_right_after_the_first_bytes(words):
    """Before the compositor has even been connected to: there is only an end."""
    async with leased() as (w, door):
        before = await calm(w)
        for number in range(2, 6):
            async with await trio.open_unix_socket(door) as stream:
                await stream.send_all(words)
                await stream.send_eof()
                said = await drain(stream)
            event = await ended(w, number)
            assert event["reason"] == "end"
            assert event["bytes_from_sandbox"] == len(words)
            assert event["bytes_to_sandbox"] == len(said)
        await settled(w, before)


async def test_a_half_close_before_the_first_bytes_are_whole():
    """No stream was made of it: a refusal, an end for it, and no process."""
    async with leased() as (w, door):
        before = await calm(w)
        async with await trio.open_unix_socket(door) as stream:
            await stream.send_all(HEADER[:-1])
            await stream.send_eof()
            assert await drain(stream) == b""
        refused = await w.wait_event("stream.refused", sandbox="box")
        assert (
            refused["reason"] == "the connection ended after 15 of the first 16 bytes"
        )
        await w.wait_event("stream.closed", sandbox="box")
        await settled(w, before)
        assert len(w.events("stream.closed", sandbox="box")) == 1


async def test_a_reset_is_no_end():
    """Closed with our bytes unread in it: something was lost, and the log says so."""
    async with leased() as (w, door):
        before = await calm(w)
        for number in range(2, 6):
            stream = await talk(door)
            stream.socket.close()  # close(2) with bytes unread: unix(7) resets
            event = await ended(w, number)
            assert event["reason"].startswith("the sandbox reset the connection (")
            assert event["bytes_from_sandbox"] == len(SESSION)
            assert event["bytes_to_sandbox"] > 0
        await settled(w, before)


INSIDE = """
import os, socket, sys, time
path = "/tmp/broker/vitrail.Display"
while not os.path.exists(path):
    time.sleep(0.05)
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(20)
sock.connect(path)
sock.sendall(bytes.fromhex(sys.argv[1]))
said = sock.recv(65536)
sock.shutdown(socket.SHUT_WR)
while more := sock.recv(65536):
    said += more
print(len(said), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(
    len(pid_namespaces_of_self()) == 0,
    reason="this kernel cannot tell a container's pid namespace (Linux 6.11)",
)
async def test_a_half_close_from_inside_a_container():
    async with world({"app": record()}, image=False) as w:
        directory = w.base / "sockets"
        directory.mkdir(mode=0o700)
        w.write_record("box", RECORD.format("unix", directory))
        status_r, status_w = os.pipe()
        child = spawn(
            [
                *("bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"),
                *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
                *("--bind", str(directory), "/tmp/broker"),
                *("--json-status-fd", str(status_w)),
                # Not sys.executable: a clone below /tmp is not seen in there.
                *("/usr/bin/python3", "-c", INSIDE, SESSION.hex()),
            ],
            pass_fds=[status_w],
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
        )
        os.close(status_w)
        try:
            with os.fdopen(status_r, "rb") as told:
                leader = json.loads(told.readline())["child-pid"]
            async with w.client() as client:
                await client.call(
                    LEASE_ACQUIRE,
                    LeaseRequest(record="box", unix=str(directory), leader=leader),
                )
            event = await ended(w, 1)
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(child.popen.stdout)
            number = int(child.popen.stdout.readline())
            assert event["reason"] == "end"
            assert event["bytes_to_sandbox"] == number > 0
        finally:
            child.kill()
            await child.wait()
            child.popen.stdin.close()
            child.popen.stdout.close()
        await w.wait_event("lease.end", sandbox="box")
