"""Attack: a helper that does not accept, so that our connect(2) waits for it."""

from __future__ import annotations

import os
import resource
import signal
import socket
from contextlib import contextmanager

import pytest

from broker.core.errors import SetupError
from broker.host.devices import devices_client
from broker.host.processes import ready
from tests.kit.wayland.compositor import short_directory

HANG_SECONDS = 5


@contextmanager
def full(kind):
    """A socket whose queue is full, as that of a helper that is stopped."""
    with short_directory() as directory:
        path = directory / "helper"
        waiting = []
        with socket.socket(socket.AF_UNIX, kind) as listener:
            listener.bind(os.fspath(path))
            listener.listen(0)
            while True:
                sock = socket.socket(socket.AF_UNIX, kind)
                sock.setblocking(False)
                waiting.append(sock)
                try:
                    sock.connect(os.fspath(path))
                except BlockingIOError:
                    break
            try:
                yield path, listener
            finally:
                for sock in waiting:
                    sock.close()


@pytest.fixture(name="alarm", autouse=True)
def _alarm():
    """End a connect(2) that waits: no task of the same thread could."""

    def hangs(*_):
        raise AssertionError("the thread of all tasks waits in connect(2)")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANG_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_helper_that_does_not_accept_is_not_ready():
    with full(socket.SOCK_STREAM) as (path, listener):
        assert ready._connected(path) is None
        listener.accept()[0].close()
        with ready._connected(path) as conn:
            assert conn.getblocking()


def test_a_device_service_that_does_not_accept_is_not_waited_for():
    with full(socket.SOCK_SEQPACKET) as (path, _), pytest.raises(SetupError):
        devices_client.connect(changed=list, ended=list, path=path)


def test_a_moment_without_descriptors_ends_no_search_for_the_device_service(tmp_path):
    """A host looks for it every second or so, as long as it does not run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(SetupError, match="Too many open files"):
            devices_client.connect(changed=list, ended=list, path=tmp_path / "none")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
