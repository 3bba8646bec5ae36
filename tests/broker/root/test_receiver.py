"""The server of receivers has the user's id: a program of the user's may stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from broker.root import receiver

_CONNECTIONS = 2000
"""Many more than the channel's buffer takes."""
_SECONDS = 20


@contextlib.contextmanager
def stopped_server():
    """Start a server of receivers that does not run; yield its channel."""
    earlier = _children()
    channel = receiver.start(os.getuid())
    (pid,) = _children() - earlier
    os.kill(pid, signal.SIGSTOP)
    try:
        yield channel
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        channel.close()


def _children():
    tasks = Path("/proc/self/task").iterdir()
    return {
        pid
        for task in tasks
        for pid in map(int, (task / "children").read_text().split())
    }


@contextlib.contextmanager
def time_limit():
    def end(*_):
        raise AssertionError("root waits for a process of the user's")

    previous = signal.signal(signal.SIGALRM, end)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def connect_clients(channel):
    here, there = socket.socketpair()
    with here, there:
        for _ in range(_CONNECTIONS):
            receiver.receive_for(channel, here).close()


def test_stopped_server_of_receivers_keeps_root_from_nothing():
    """Root's only thread also takes devices back, and obeys SIGTERM and SIGHUP."""
    with (
        stopped_server() as channel,
        time_limit(),
        pytest.raises(BlockingIOError),
    ):
        connect_clients(channel)
