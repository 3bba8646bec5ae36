"""Connections that a session child makes to the user's programs."""

from __future__ import annotations

import socket
import threading

import pytest

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.session.connecting import connect_path
from tests.kit.wayland.compositor import short_directory


@pytest.fixture(name="busy")
def _busy():
    """A program whose queue is full."""
    with short_directory() as base, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(base / "s"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(base / "s"))
            yield base / "s", listener


def test_a_program_that_is_busy_for_a_moment_is_waited_for(busy):
    path, listener = busy
    taken = []

    def serve():
        taken.extend(listener.accept()[0] for _ in range(2))

    thread = threading.Thread(target=serve)
    thread.start()
    with connect_path(path) as sock:
        thread.join()
        sock.sendall(b"x")
        assert taken[1].recv(1) == b"x"
        assert sock.gettimeout() is None
    for conn in taken:
        conn.close()


def test_one_that_stays_busy_is_given_up(busy, monkeypatch):
    monkeypatch.setattr(limits, "ADMIT_SECONDS", 1.0)
    with pytest.raises(UpstreamError, match="no answer within 1 s"):
        connect_path(busy[0])
