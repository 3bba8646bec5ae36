"""Another user who serves ``control`` where XDG_RUNTIME_DIR leads brokerctl."""

from __future__ import annotations

import os
import socket

import pytest
import trio

from broker.control.client import open_client
from broker.core.errors import SetupError
from tests.kit.wayland.compositor import short_directory


async def test_nothing_is_said_to_another_users_broker(monkeypatch):
    mine = os.getuid()
    if mine == 0:
        pytest.skip("root speaks with every user's broker")
    with short_directory() as base, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(base / "control"))
        listener.listen()
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        with pytest.raises(SetupError, match="another user's"):
            async with open_client(base / "control") as client:
                await client.status()
        conn, _ = listener.accept()
        with conn, trio.fail_after(5):
            assert conn.recv(1) == b"", "not a byte"
