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
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import trio

from broker.authority.audit.proof.keys import KeyFile
from broker.cli.audit.proof.verify import verify
from broker.core.errors import RefusedError, VitrailError
from broker.ipc.audit.database import open_reading
from broker.ipc.control.api import LeaseRequest
from broker.ipc.control.methods import LEASE_ACQUIRE
from tests.kit.eventually import eventually
from tests.kit.records import external_record
from tests.kit.traced_broker import TRACE
from tests.kit.vm.siege import HEADER
from tests.kit.world import record, world

RECORD = external_record('hybrid = "{}"')
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
        # Worker and waypipe client are there, which takes long where all are traced.
        await eventually(lambda: talk(base))
        newest = max(e["stream"] for e in w.events("stream.opened", sandbox="box"))
        await eventually(lambda: _closed(w, newest))
        before = len(trace.read_text().splitlines())
        assert await talk(base)
        await eventually(lambda: _closed(w, newest + 1))
        authority = await w.pid_of("authority")
        threads = set(os.listdir(f"/proc/{authority}/task"))
        calls = list(completed(trace.read_text().splitlines()[before:]))

    head = re.escape("".join(f"\\x{byte:02x}" for byte in HEADER))

    def first(pattern: str, after: int) -> Call:
        for call in calls:
            if call.start >= after and re.match(pattern, call.text):
                return call
        raise AssertionError(f"no {pattern} after line {after} of {calls}")

    def flushed(after: Call, before: Call) -> bool:
        # Of an undumpable process nobody reads a descriptor's name.  Its log is what
        # SQLite flushes with fdatasync(2).
        return any(
            call.thread in threads
            and call.text.startswith("fdatasync(")
            and after.start < call.start <= call.end < before.start
            for call in calls
        )

    accepted = first(r"accept4\(.*AF_UNIX", 0)
    taken = first(r"(?:recv\w*|read)\(.*" + head, accepted.end)
    given = first(r"(?:send\w*|write)\(.*" + head, taken.end)
    assert flushed(accepted, taken), (
        "the decision's flush, before a byte of the stream is read"
    )
    assert flushed(taken, given), (
        "the opening's flush, before a byte of it is passed on"
    )


class Call(NamedTuple):
    """One system call of a trace: its thread, and the lines of its entry and its end."""

    thread: str
    start: int
    end: int
    text: str


def completed(lines: list[str]) -> Iterator[Call]:
    """The calls of a trace; one during which another thread ran stands on two lines.

    strace(1), "-f": "<unfinished ...>" and "<... NAME resumed>".
    """
    unfinished: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            unfinished[thread] = number, text.removesuffix("<unfinished ...>")
        elif text.startswith("<... ") and thread in unfinished:
            start, entry = unfinished.pop(thread)
            yield Call(thread, start, number, entry + text.partition("resumed>")[2])
        else:
            yield Call(thread, number, number, text)


async def _closed(w, least: int) -> bool:
    """Whether a stream of this number, or a later one, has been closed."""
    ends = w.events("stream.closed", sandbox="box")
    return any(end["stream"] >= least for end in ends)


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
