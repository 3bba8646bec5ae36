"""What a pump that was taken over can do to other processes: nothing.

fcntl(2) can have the kernel send a signal of one's choice to any process of
the same user when a descriptor becomes readable, and a pump has descriptors
whose far ends write.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
from contextlib import suppress

import pytest

from broker.launch.process.spawn import DEVNULL, spawn
from broker.relay.confine import confine


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
    if not confine():
        return
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
