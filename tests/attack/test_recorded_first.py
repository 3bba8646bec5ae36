"""Invariant 6: recorded before it takes effect, and still there after a kill.

A real broker with a compositor and a leased machine; the machine's side is
played by this test, so that every byte that comes back to it is known.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import struct
from contextlib import asynccontextmanager

import pytest
import trio

from broker.authority.audit.proof.keys import KeyFile
from broker.cli.audit.proof.verify import verify
from broker.core.errors import RefusedError, VitrailError
from broker.ipc.audit.database import open_reading
from broker.ipc.control.api import LeaseRequest
from broker.ipc.control.methods import LEASE_ACQUIRE
from tests.kit.eventually import eventually
from tests.kit.traced_broker import TRACE
from tests.kit.vm.siege import HEADER
from tests.kit.world import record, world

RECORD = """\
class = "persistent"
display = "allow"
[launch]
kind = "external"
[peer]
hybrid = "{}"
"""
# As a waypipe server would say it: the header, then get_registry.
_REGISTRY = struct.pack("<III", 1, 12 << 16 | 1, 2)
SESSION = HEADER + struct.pack("<I", (4 + len(_REGISTRY)) << 5) + _REGISTRY


@asynccontextmanager
async def machine(**options):
    """A world and the path of its leased machine's sockets."""
    async with world({"app": record()}, image=False, **options) as w:
        directory = w.base / "sockets"
        directory.mkdir(mode=0o700)
        base = directory / "vm.vsock"
        w.write_record("box", RECORD.format(base))
        yield w, base


async def lease(w, base) -> None:
    async with w.client() as client:
        request = LeaseRequest(record="box", hybrid=str(base), leader=os.getpid())
        await client.call(LEASE_ACQUIRE, request)


async def talk(base) -> bool:
    """Open a session; whether the compositor answered."""
    try:
        async with await trio.open_unix_socket(f"{base}_6501") as stream:
            await stream.send_all(SESSION)
            return bool(await stream.receive_some())
    except OSError:
        return False
    except trio.BrokenResourceError:
        return False


def whole(w) -> int:
    """Verify the log as it is; returns its size."""
    with open_reading(w.paths.audit) as db:
        report = verify(db, keys=KeyFile(w.paths.audit).any())
    assert report.good, report.problems
    return report.size


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
async def test_the_flush_precedes_the_streams_first_byte(tmp_path) -> None:
    """As the kernel sees it: decision on disk, byte read, opening on disk, byte on."""
    trace = tmp_path / "trace"
    traced = {"extra": {TRACE: str(trace)}, "program": "tests.kit.traced_broker"}
    async with machine(**traced) as (w, base):
        await lease(w, base)
        assert await talk(base), "worker and waypipe client are there"
        await eventually(lambda: _closed(w, 1))
        before = len(trace.read_text().splitlines())
        assert await talk(base)
        await eventually(lambda: _closed(w, 2))
        authority = await w.pid_of("authority")
        threads = "|".join(os.listdir(f"/proc/{authority}/task"))
        lines = trace.read_text().splitlines()[before:]

    head = "".join(f"\\x{byte:02x}" for byte in HEADER)
    # Of an undumpable process nobody reads a descriptor's name.  Its log is what SQLite
    # flushes with fdatasync(2).
    flush = re.compile(rf"^(?:{threads}) +fdatasync\(\d+")

    def first(pattern: str, after: int) -> int:
        for number, line in enumerate(lines[after:], start=after):
            if re.search(pattern, line) and "resumed" not in line:
                return number
        raise AssertionError(f"no {pattern} after line {after}")

    accepted = first(r"accept4\(.*AF_UNIX", 0)
    taken = first(r"(?:recv\w*|read)\(.*" + re.escape(head), accepted)
    given = first(r"(?:send\w*|write)\(.*" + re.escape(head), taken)
    assert [n for n in range(accepted, taken) if flush.search(lines[n])], (
        "the decision's flush, before a byte of the stream is read"
    )
    assert [n for n in range(taken, given) if flush.search(lines[n])], (
        "the opening's flush, before a byte of it is passed on"
    )


async def _closed(w, count: int) -> bool:
    return len(w.events("stream.closed", sandbox="box")) >= count


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(3, 1), *(pytest.param(50, n, marks=pytest.mark.long) for n in range(4))],
)
async def test_kill_9_of_the_broker_under_load(kills: int, seed: int) -> None:
    """Each stream that was answered is in the log, and the log is whole.

    Two hundred in the long run, in four parts: no test may take five minutes.
    """
    draw = random.Random(seed)
    async with machine() as (w, base):
        answered = 0
        for _ in range(kills):
            if answered:
                await _again(w)
            await _lease_again(w, base)
            with trio.fail_after(60):
                answered += await _load_until_killed(w, base, draw.uniform(0.05, 1.2))
            whole(w)
            opened = len(w.events("stream.opened", service="vitrail.Display"))
            assert opened >= answered
        await _again(w)
        assert answered > kills
        whole(w)


async def _again(w) -> None:
    async def started():
        try:
            await w.start()
        except VitrailError:
            return False  # the one before is still ending
        return True

    await eventually(started, deadline=90)


async def _lease_again(w, base) -> None:
    async def leased():
        try:
            await lease(w, base)
        except RefusedError as error:
            # The new host has taken it up itself, by the leader's pidfd.
            return "already has a lease" in error.message
        except VitrailError:
            return False
        return True

    await eventually(leased, deadline=90)


async def _load_until_killed(w, base, seconds: float) -> int:
    """Streams from four sides, until the kill; how many were answered."""
    answered = 0
    killed = False
    # The authority writes for a moment longer than the broker's process lives.
    pids = [await w.pid_of(role) for role in ("authority", "host")]
    pids.append(await w.broker_pid())
    while not await talk(base):
        await trio.lowlevel.checkpoint()  # worker and waypipe client come up
    answered += 1

    async def load():
        nonlocal answered
        while not killed:
            answered += await talk(base)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(load)
        await trio.sleep(seconds)
        pidfds = [os.pidfd_open(pid) for pid in pids]
        os.kill(pids[answered % 3], signal.SIGKILL)
        for pidfd in pidfds:
            await trio.lowlevel.wait_readable(pidfd)
            os.close(pidfd)
        killed = True
        nursery.cancel_scope.deadline = trio.current_time() + 5
    return answered
