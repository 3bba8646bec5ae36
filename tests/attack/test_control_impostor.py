"""Another user who serves ``control`` where XDG_RUNTIME_DIR leads brokerctl."""

from __future__ import annotations

import os
import socket

import pytest
import trio

from broker.core.errors import SetupError
from broker.core.paths import find_paths
from broker.ipc.control.api import Nothing
from broker.ipc.control.blocking import open_blocking
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import STATUS
from tests.kit.wayland.compositor import short_directory


async def test_nothing_is_said_to_another_users_broker(monkeypatch):
    mine = os.getuid()
    if mine == 0:
        pytest.skip("root speaks with every user's broker")
    with short_directory() as base, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(base / "control"))
        listener.listen()
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        with pytest.raises(SetupError, match="belongs to another user"):
            async with open_client(base / "control") as client:
                await client.call(STATUS, Nothing())
        conn, _ = listener.accept()
        with conn, trio.fail_after(5):
            assert conn.recv(1) == b"", "not a byte"


def test_verbs_that_ask_once_say_nothing_to_it_either(monkeypatch):
    # 'brokerctl top' answers questions by this client.
    mine = os.getuid()
    if mine == 0:
        pytest.skip("root speaks with every user's broker")
    with short_directory() as base, socket.socket(socket.AF_UNIX) as listener:
        paths = find_paths({"XDG_RUNTIME_DIR": str(base)})
        paths.runtime.mkdir(mode=0o700)
        listener.bind(str(paths.control))
        listener.listen()
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        with (
            pytest.raises(SetupError, match="belongs to another user"),
            open_blocking(paths) as client,
        ):
            client.call(STATUS, Nothing())
        conn, _ = listener.accept()
        with conn:
            assert conn.recv(1) == b"", "not a byte"


def test_verbs_that_ask_once_look_at_the_runtime_directory():
    if os.getuid() == 0:
        pytest.skip("root is every user")
    with short_directory() as base, socket.socket(socket.AF_UNIX) as listener:
        paths = find_paths({"XDG_RUNTIME_DIR": str(base)})
        paths.runtime.mkdir(mode=0o700)
        listener.bind(str(paths.control))
        listener.listen()
        paths.runtime.chmod(0o777)
        with (
            pytest.raises(SetupError, match="writable by others"),
            open_blocking(paths),
        ):
            pass
