"""A server whose socket's file exists does not take connections yet."""

from __future__ import annotations

import socket

import pytest

from tests.kit.listening import takes_connections
from tests.kit.wayland.compositor import short_directory


def test_a_socket_takes_connections_from_listen_on():
    with short_directory() as base, socket.socket(socket.AF_UNIX) as server:
        path = base / "server"
        assert not takes_connections(path)
        server.bind(str(path))
        assert path.is_socket()
        with socket.socket(socket.AF_UNIX) as client:
            with pytest.raises(ConnectionRefusedError):
                client.connect(str(path))
            assert not takes_connections(path)
            server.listen(1)
            assert takes_connections(path)
            client.connect(str(path))
            assert takes_connections(path)


def test_a_renamed_socket_takes_connections():
    with short_directory() as base, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(base / "new"))
        server.listen(1)
        (base / "new").rename(base / "server")
        assert takes_connections(base / "server")
