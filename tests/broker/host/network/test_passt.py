"""The name servers of this machine, of which a filter gets a socket each."""

from __future__ import annotations

import errno
import socket

import pytest

from broker.core.errors import SetupError
from broker.host.network.resolvers import resolver_sockets


@pytest.fixture
def no_ipv6(monkeypatch):
    """A kernel without IPv6 makes no such socket."""
    made = socket.socket

    class Socket(made):
        def __init__(self, family=socket.AF_INET, *args, **named):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported")
            super().__init__(family, *args, **named)

    monkeypatch.setattr(socket, "socket", Socket)


@pytest.mark.usefixtures("no_ipv6")
def test_a_name_server_of_ipv6_is_left_out_where_there_is_none(tmp_path):
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver ::1\nnameserver 127.0.0.1\n")
    (found,) = resolver_sockets(conf)
    with found:
        assert found.getpeername() == ("127.0.0.1", 53)
        assert found.gettimeout() == 0
    conf.write_text("nameserver ::1\n")
    with pytest.raises(SetupError, match="name server ::1"):
        resolver_sockets(conf)
