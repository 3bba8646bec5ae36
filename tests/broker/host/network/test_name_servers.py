"""The process that finds name servers anew: real files and sockets."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from functools import partial

import pytest

from broker.host.network.flowguard import name_servers
from broker.host.network.resolvers import resolver_sockets

FIRST, SECOND = "127.0.0.1", "127.0.0.2"


class Finder:
    """The process, beside a resolv.conf of the test's."""

    def __init__(self, ours, place):
        self.path = place / "resolv.conf"
        self.name(FIRST)
        sockets = [ours.enter_context(one) for one in resolver_sockets(self.path)]
        ends = name_servers.start(sockets, self.path)
        self.looks, self.news = map(ours.enter_context, ends)
        for one in (self.looks, self.news):
            one.settimeout(30)

    def name(self, *servers):
        """Put another file in its place, as programs do."""
        new = self.path.with_name("new")
        new.write_text("".join(f"nameserver {one}\n" for one in servers))
        new.rename(self.path)

    def found(self):
        """Have it look; return where the sockets that it sends lead."""
        self.looks.send(name_servers.LOOK)
        _, fds, *_ = socket.recv_fds(self.looks, 1, 3)
        assert not any(map(os.get_blocking, fds))
        found = [socket.socket(fileno=fd) for fd in fds]
        peers = [one.getpeername() for one in found]
        for one in found:
            one.close()
        servers = name_servers.servers_of(self.news.recv(name_servers.LIST_BYTES))
        assert servers == [(socket.AF_INET, peer) for peer in peers]
        return [host for host, _ in peers]


@pytest.fixture
def finder(tmp_path):
    with ExitStack() as ours:
        yield Finder(ours, tmp_path)


def test_other_servers_are_found(finder):
    finder.name(SECOND)
    assert finder.found() == [SECOND]
    finder.name(SECOND, FIRST)
    assert finder.found() == [SECOND, FIRST]


def test_a_look_that_finds_nothing_new_is_not_answered(finder):
    for _ in range(3):
        finder.looks.send(name_servers.LOOK)
    finder.name(SECOND, FIRST)
    assert finder.found() == [SECOND, FIRST]
    finder.name(SECOND)
    assert finder.found() == [SECOND], "an answer to a look of before"


def test_it_ends_with_the_filter(finder):
    finder.looks.close()
    assert finder.news.recv(100) == b""


# -- taken over ------------------------------------------------------------------------


def attacked(monkeypatch, tmp_path, attack):
    """What the process says after an attack from inside; empty: it was killed."""

    def serve(_looks, news, _path, _known):
        try:
            attack()
        except PermissionError:
            news.send(b"refused")
        news.send(b"done")

    monkeypatch.setattr(name_servers, "serve", serve)
    with ExitStack() as ours:
        return Finder(ours, tmp_path).news.recv(100)


def made(family, kind):
    """Make a socket, and close it."""
    with socket.socket(family, kind):
        pass


def test_it_makes_datagram_sockets(monkeypatch, tmp_path):
    """The attacks' control."""
    attack = partial(made, socket.AF_INET, socket.SOCK_DGRAM)
    assert attacked(monkeypatch, tmp_path, attack) == b"done"


@pytest.mark.parametrize(
    "attack",
    [
        partial(made, socket.AF_INET, socket.SOCK_STREAM),
        partial(made, socket.AF_UNIX, socket.SOCK_STREAM),
        partial(made, socket.AF_NETLINK, socket.SOCK_RAW),
        lambda: os.open("/etc/x", os.O_WRONLY | os.O_CREAT),
        lambda: os.kill(os.getppid(), 0),
        lambda: os.execv("/bin/true", ["true"]),
        os.fork,
    ],
    ids=["tcp", "unix", "netlink", "write", "kill", "exec", "fork"],
)
def test_it_does_nothing_else(monkeypatch, tmp_path, attack):
    assert attacked(monkeypatch, tmp_path, attack) == b""


def test_it_reads_no_file_of_the_user(monkeypatch, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_text("secret")
    attack = partial(os.open, secret, os.O_RDONLY)
    assert attacked(monkeypatch, folder, attack) == b"refused"


def test_it_has_no_descriptor_of_its_parent(monkeypatch, tmp_path):
    read, write = os.pipe()

    def look():
        for fd in (read, write):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(fd, b"y")

    assert attacked(monkeypatch, tmp_path, look) == b"done"
    for fd in (read, write):
        os.close(fd)


def test_a_file_that_is_replaced_during_a_look_is_found_by_the_next(
    tmp_path, monkeypatch
):
    """What is passed on are the servers of the text that was compared."""
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver {FIRST}\n")
    sockets_of = name_servers.sockets_of

    def late(text, resolv_conf):
        found = sockets_of(text, resolv_conf)
        path.write_text(f"nameserver {SECOND}\n")
        return found

    with ExitStack() as ours:
        pair = partial(socket.socketpair, socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asks, looks, streams, news = map(ours.enter_context, (*pair(), *pair()))
        before = [ours.enter_context(one) for one in resolver_sockets(path)]
        known = name_servers._state(path.read_text(), before)
        monkeypatch.setattr(name_servers, "sockets_of", late)
        for _ in range(2):
            asks.send(name_servers.LOOK)
        asks.shutdown(socket.SHUT_WR)
        name_servers.serve(looks, news, path, known)
        news.close()
        heard = []
        while data := streams.recv(name_servers.LIST_BYTES):
            heard.append([host for _, (host, _) in name_servers.servers_of(data)])
    assert heard == [[SECOND]]
