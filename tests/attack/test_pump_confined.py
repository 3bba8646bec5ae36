"""What a pump that was taken over can do to other processes and their files: nothing.

fcntl(2) can have the kernel send a signal of one's choice to any process of
the same user when a descriptor becomes readable, and a pump has descriptors
whose far ends write.  A terminal, or the log's file, is a descriptor like any other.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from broker.helpers.apart import read_compiled
from broker.helpers.filters.carrying_filters import pump_filter
from broker.helpers.fork_start import start_server
from broker.helpers.process.fork_client import ForkServer
from broker.helpers.process.hardening import confine
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.helpers.pump.client import Pump
from broker.helpers.pump.process import start_pump
from broker.helpers.pump.starting import PUMPS, fork_pump
from broker.programs.start import start_helpers
from tests.kit.eventually import eventually
from tests.kit.relay.sockets import forked_pump, running


@pytest.fixture
async def victim():
    """Another process of the person's."""
    child = spawn(["sleep", "1000"], stdout=DEVNULL, stderr=DEVNULL)
    yield child
    child.kill()
    await child.wait()


def _attack(pid):
    """Confined as a pump is, have the kernel kill a process."""
    ours, theirs = socket.socketpair()
    confine(pump_filter())
    for command, argument in (
        (fcntl.F_SETOWN, pid),
        (fcntl.F_SETSIG, signal.SIGKILL),
        (fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK),
    ):
        with suppress(PermissionError):
            fcntl.fcntl(ours, command, argument)
    theirs.send(b"x")


async def test_a_confined_pump_has_no_process_killed(victim):
    attacker = os.fork()
    if attacker == 0:
        try:
            _attack(victim.pid)
        finally:
            os._exit(0)
    os.waitpid(attacker, 0)
    # The signal is sent before send(2) returns, so the pidfd says it by now.
    assert not select.select([victim.pidfd], [], [], 0.5)[0], "the victim lives"


def _identity(path):
    found = os.stat(path)
    return found.st_dev, found.st_ino


@pytest.fixture
def terminal(monkeypatch, tmp_path):
    """Our standard error, as the broker's: a file of which a pump is to have nothing."""
    place = tmp_path / "stderr"
    kept = os.dup(2)
    with place.open("w+b") as file:
        os.dup2(file.fileno(), 2)
        monkeypatch.setenv("TOKEN_OF_THE_SESSION", "secret")
        yield place
    os.dup2(kept, 2)
    os.close(kept)


def _has_no_file_of_ours(pid):
    mine = {_identity(f"/proc/self/fd/{fd}") for fd in range(3)}
    null = _identity(os.devnull)
    for fd in range(3):
        his = _identity(f"/proc/{pid}/fd/{fd}")
        assert his == null or his not in mine


@pytest.mark.usefixtures("terminal")
def test_a_forked_pump_has_no_file_of_its_parents():
    handle = start_pump(pump_filter())
    try:
        # It says that it runs when it has let go of all else.
        handle.control.recv(1 << 16)
        _has_no_file_of_ours(handle.pid)
    finally:
        handle.close()
        os.waitid(os.P_PIDFD, handle.pidfd, os.WEXITED)
        os.close(handle.pidfd)


@pytest.mark.usefixtures("terminal")
async def test_a_brokers_pump_has_no_file_and_no_variable_of_the_brokers():
    async with forked_pump() as pump:
        pid = pump.statistics().pid
        _has_no_file_of_ours(pid)
        told = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"secret" not in told


def _memory_has(pid, sought):
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            where, rights, _, _, inode, *_ = line.split()
            if "w" in rights and inode == "0":
                begin, end = (int(number, 16) for number in where.split("-"))
                if sought in os.pread(memory.fileno(), end - begin, begin):
                    return True
    return False


async def test_a_pump_has_no_variable_of_the_starter_that_was_forked_before_it(
    monkeypatch,
):
    """One process forks both, and the starter has the session's variables."""
    secret = os.urandom(16).hex()
    monkeypatch.setenv("TOKEN_OF_THE_SESSION", secret)
    started = start_helpers(os.environb)
    forks = started.forks()
    with started.starter, ExitStack() as stack:
        server = ForkServer(PUMPS, start_server, first=forks["pumps"])
        async with running(await fork_pump(server)) as pump:
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
            starter = int(children.read_text().split()[0])
            # It would end this process, which is the broker here.
            stack.callback(os.kill, starter, signal.SIGKILL)
            await eventually(lambda: _memory_has(starter, secret.encode()))
            assert not _memory_has(pump.statistics().pid, secret.encode())
            assert not _memory_has(server.pid, secret.encode())
            stack.close()
        await server.close()
    for name in ("keepers", "acceptors", "session", "folders"):
        forks[name].control.close()
    assert await forks["pumps"].process.wait() == 0
    for pipe in (started.authority_filter, started.viewer_filter):
        assert len(read_compiled(pipe)) == 1


def test_a_pump_that_cannot_be_confined_ends():
    handle = start_pump(b"")
    try:
        assert handle.control.recv(1 << 16) == b"", "it reports that it runs"
        ended = os.waitid(os.P_PIDFD, handle.pidfd, os.WEXITED)
        assert ended.si_status == 70
        assert "cannot install a system call filter" in handle.words.text()
    finally:
        handle.words.close()
        handle.close()
        os.close(handle.pidfd)


async def test_what_a_pump_writes_last_is_logged_escaped(capfd):
    server = ForkServer(PUMPS, start_server)
    handle = await fork_pump(server)
    assert handle.words is not None
    async with running(handle) as pump:
        assert isinstance(pump, Pump)
        os.pwrite(handle.words.fd, b"a mistake \x1b]0;title\x07\n", 0)
        os.kill(handle.pid, signal.SIGKILL)
        await pump.wait_died()
    assert pump.code == -signal.SIGKILL
    await server.close()
    said = capfd.readouterr().err
    assert f"the pump {handle.pid} ended with: a mistake" in said
    assert "\x1b" not in said
