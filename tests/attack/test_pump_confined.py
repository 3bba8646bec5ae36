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
from contextlib import suppress
from pathlib import Path

import pytest

from broker.helpers.process.libseccomp import seccomp
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.helpers.pump.client import Pump
from broker.helpers.pump.confine import confine
from broker.helpers.pump.process import start_pump
from broker.helpers.pump.starting import start_pump_program
from tests.kit.relay.sockets import running


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
    confine()
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
    handle = start_pump()
    try:
        # It says that it runs when it has let go of all else.
        handle.control.recv(1 << 16)
        _has_no_file_of_ours(handle.pid)
    finally:
        handle.close()
        os.waitid(os.P_PIDFD, handle.pidfd, os.WEXITED)
        os.close(handle.pidfd)


@pytest.mark.usefixtures("terminal")
def test_a_brokers_pump_has_no_file_and_no_variable_of_the_brokers():
    handle = start_pump_program()
    try:
        handle.control.settimeout(30)
        handle.control.recv(1 << 16)
        _has_no_file_of_ours(handle.pid)
        told = Path(f"/proc/{handle.pid}/environ").read_bytes()
        assert b"secret" not in told
    finally:
        handle.close()
        os.waitid(os.P_PIDFD, handle.pidfd, os.WEXITED)
        os.close(handle.pidfd)


def test_a_pump_that_cannot_be_confined_ends(monkeypatch):
    class Refused:
        def __init__(self, default):
            raise OSError("no filters here")

    monkeypatch.setattr(seccomp, "SyscallFilter", Refused)
    handle = start_pump()
    try:
        assert handle.control.recv(1 << 16) == b"", "it says that it runs"
        ended = os.waitid(os.P_PIDFD, handle.pidfd, os.WEXITED)
        assert ended.si_status == 70
        assert "system calls cannot be filtered: no filters here" in handle.words.text()
    finally:
        handle.words.close()
        handle.close()
        os.close(handle.pidfd)


async def test_what_a_pump_writes_last_is_logged_escaped(capfd):
    handle = start_pump_program()
    assert handle.words is not None
    async with running(handle) as pump:
        assert isinstance(pump, Pump)
        os.pwrite(handle.words.fd, b"a mistake \x1b]0;title\x07\n", 0)
        os.kill(handle.pid, signal.SIGKILL)
        await pump.wait_died()
    assert pump.code == -signal.SIGKILL
    said = capfd.readouterr().err
    assert f"the pump {handle.pid} ended with: a mistake" in said
    assert "\x1b" not in said
