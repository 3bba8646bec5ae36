"""Acceptors: forked from a warm process, and independent of it afterwards."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections import Counter
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from broker.core.errors import SetupError
from broker.core.services import DISPLAY, WAYLAND_DOOR
from broker.host.acceptor import Acceptors, end_acceptor
from broker.net.addresses import UnixEndpoint
from tests.kit.eventually import eventually

SERVICES = (DISPLAY, WAYLAND_DOOR)


@asynccontextmanager
async def running():
    acceptors = Acceptors()
    async with trio.open_nursery() as nursery:
        await nursery.start(acceptors.run)
        yield acceptors
        nursery.cancel_scope.cancel()
    assert acceptors._server.pid == 0


@asynccontextmanager
async def one(acceptors, directory):
    directory.mkdir(mode=0o700, exist_ok=True)
    places = {service: UnixEndpoint(directory / service) for service in SERVICES}
    child, doors = await acceptors.start(places, WAYLAND_DOOR)
    try:
        yield child, doors
    finally:
        for door in doors.values():
            door.close()
        await end_acceptor(child)


async def arrives(directory, doors):
    """Connect as a program of this process, and have it accepted."""
    with socket.socket(socket.AF_UNIX) as client, trio.fail_after(60):
        client.connect(str(directory / WAYLAND_DOOR))
        arrived = await doors[WAYLAND_DOOR].accept()
    arrived.conn.close()
    return arrived.facts.pid


def files_of(pid):
    return sorted(_links(Path(f"/proc/{pid}/fd").glob("*")))


def _links(paths):
    """Read each descriptor's link; one that is closed meanwhile has none."""
    for path in paths:
        with suppress(FileNotFoundError):
            yield os.readlink(path)


def kinds_of(pid):
    """How many files of each kind a process has, beside the standard ones."""
    numbers = sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda fd: int(fd.name))
    return Counter(link.partition(":")[0] for link in _links(numbers[3:]))


async def test_two_of_one_warm_process(tmp_path):
    async with (
        running() as acceptors,
        one(acceptors, tmp_path / "a") as (first, doors),
    ):
        warm = acceptors._server.pid
        assert await arrives(tmp_path / "a", doors) == os.getpid()
        async with one(acceptors, tmp_path / "b") as (second, others):
            assert await arrives(tmp_path / "b", others) == os.getpid()
            assert acceptors._server.pid == warm
            assert len({warm, first.pid, second.pid}) == 3
            # It keeps the pidfd of each and a pipe for its end, none of their sockets.
            kept = {"anon_inode": 2, "pipe": 2, "socket": 1}
            await eventually(lambda: kinds_of(warm) == kept)
            # None of the first one's sockets has come to the second by the fork.
            mine = {f for f in files_of(first.pid) if f.startswith("socket:")}
            assert not mine & set(files_of(second.pid))


async def test_a_warm_process_that_has_died_is_reaped_before_the_next_order(tmp_path):
    async with running() as acceptors, one(acceptors, tmp_path / "a"):
        warm = acceptors._server.pid
        os.kill(warm, signal.SIGKILL)
        await eventually(lambda: not Path(f"/proc/{warm}").exists())


async def test_when_it_accepts_it_is_confined_and_has_no_file_of_ours(tmp_path):
    async with running() as acceptors, one(acceptors, tmp_path / "a") as (child, doors):
        await arrives(tmp_path / "a", doors)
        status = Path(f"/proc/{child.pid}/status").read_text()
        assert "\nSeccomp:\t2\n" in status
        files = files_of(child.pid)
        assert [f for f in files if f.startswith("/")] == [
            "/memfd:stderr (deleted)"
        ] * 4


async def test_what_an_acceptor_wrote_last_is_logged_escaped(tmp_path, capfd):
    async with running() as acceptors, one(acceptors, tmp_path / "a") as (child, _):
        os.pwrite(child.words.fd, b"a mistake \x1b]0;title\x07\n", 0)
    said = capfd.readouterr().err
    assert f"process {child.pid} ended with: a mistake" in said
    assert "\x1b" not in said


async def test_the_warm_process_dies_and_its_acceptors_live_on(tmp_path):
    async with (
        running() as acceptors,
        one(acceptors, tmp_path / "a") as (_child, doors),
    ):
        dead = acceptors._server.pid
        os.kill(dead, signal.SIGKILL)
        assert await arrives(tmp_path / "a", doors) == os.getpid()
        async with one(acceptors, tmp_path / "b") as (_other, others):
            assert acceptors._server.pid not in {0, dead}
            assert await arrives(tmp_path / "b", others) == os.getpid()


async def test_an_order_that_is_not_answered_fails_and_the_next_one_is(
    tmp_path, monkeypatch
):
    async with running() as acceptors:
        async with one(acceptors, tmp_path / "first"):
            pass
        os.kill(acceptors._server.pid, signal.SIGSTOP)
        monkeypatch.setattr("broker.core.limits.ACCEPTOR_START_SECONDS", 0.0)
        with pytest.raises(SetupError, match="cannot start the container's"):
            async with one(acceptors, tmp_path / "a"):
                pass
        assert acceptors._server.pid == 0
        monkeypatch.undo()
        async with one(acceptors, tmp_path / "a") as (_child, doors):
            assert await arrives(tmp_path / "a", doors) == os.getpid()


async def test_an_acceptor_ends_with_its_channels(tmp_path):
    async with running() as acceptors, one(acceptors, tmp_path / "a") as (child, doors):
        warm = acceptors._server.pid
        for door in doors.values():
            door.close()
        with trio.fail_after(60):
            await child.wait()
        async with one(acceptors, tmp_path / "b") as (_other, others):
            assert await arrives(tmp_path / "b", others) == os.getpid()
        assert acceptors._server.pid == warm


async def test_a_sandbox_that_locks_its_directory_is_not_waited_for(tmp_path):
    # It has it mounted read-only, which is enough for flock(2).  Each such sandbox
    # held up the start of a later broker for as long as a connect may take.
    directory = tmp_path / "a"
    directory.mkdir(mode=0o700)
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        async with running() as acceptors, one(acceptors, directory) as (_, doors):
            assert await arrives(directory, doors) == os.getpid()
    finally:
        os.close(held)
