"""The process that asks name servers by TCP: real sockets, servers that are hostile."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from broker.core.limits import network as limits
from broker.host.network.flowguard import name_streams

QUESTION = b"a question of the DNS"


class Server:
    """A name server's TCP side, and the question process that asks it."""

    def __init__(self, ours, family=socket.AF_INET):
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        self.listening = ours.enter_context(
            socket.create_server((host, 0), family=family)
        )
        self.listening.settimeout(30)
        udp = ours.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        udp.connect(self.listening.getsockname()[:2])
        self.resolver = udp
        self.finder, self.news = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        ours.enter_context(self.finder)

    def start(self, ours):
        self.asks = ours.enter_context(name_streams.start([self.resolver], self.news))
        self.asks.settimeout(30)

    def ask(self, data=QUESTION):
        self.asks.send(b"\0" + data)

    def take(self, data=QUESTION):
        """Accept a connection, and read the question."""
        conn, _ = self.listening.accept()
        conn.settimeout(30)
        with conn.makefile("rb") as file:
            assert file.read(2 + len(data)) == len(data).to_bytes(2) + data
        return conn


@contextmanager
def serving(family=socket.AF_INET):
    with ExitStack() as ours:
        made = Server(ours, family)
        made.start(ours)
        yield made


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("step", [1, 1000, 70_000])
@pytest.mark.parametrize("size", [1, 3000, 65_535])
def test_an_answer_comes_back(family, step, size):
    if step == 1 and size > 3000:
        size = 3000
    with serving(family) as made:
        made.ask()
        answer = os.urandom(size)
        with made.take() as conn:
            data = len(answer).to_bytes(2) + answer + b"what follows"
            for at in range(0, len(data) - 12, step):
                conn.sendall(data[at : at + step])
            assert made.asks.recv(1 << 17) == answer


def test_each_question_has_its_connection():
    with serving() as made:
        for data in (b"first", b"second"):
            made.ask(data)
        with made.take(b"first") as first, made.take(b"second") as second:
            second.sendall(b"\0\6answer")
            assert made.asks.recv(100) == b"answer"
            first.sendall(b"\0\5other")
            assert made.asks.recv(100) == b"other"


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\0\7short"])
def test_a_server_that_ends_early_is_no_answer_and_hinders_none(data):
    with serving() as made:
        made.ask()
        with made.take() as conn:
            conn.sendall(data)
        assert made.asks.recv(100) == QUESTION[:2], "it is told at once"
        made.ask(b"another")
        with made.take(b"another") as conn:
            conn.sendall(b"\0\4good")
            assert made.asks.recv(100) == b"good"


def test_a_server_that_is_not_there_is_no_answer():
    with serving() as made:
        made.ask()
        with made.take() as conn:
            conn.sendall(b"\0\4good")
            assert made.asks.recv(100) == b"good"
        # The process that holds no copy of it has begun.
        server = made.listening.getsockname()
        made.listening.close()
        for _ in range(3):
            made.ask()
        for _ in range(3):
            assert made.asks.recv(100) == QUESTION[:2]
        with socket.create_server(server) as again:
            again.settimeout(30)
            made.ask(b"last")
            conn, _ = again.accept()
            with conn:
                conn.sendall(b"\0\4more")
                assert made.asks.recv(100) == b"more"


def test_another_server_takes_the_place_of_the_first():
    """Of a list; an end of the process that sends lists changes nothing."""
    with serving() as made, ExitStack() as ours:
        other = Server(ours)
        other.news.close()
        listed = (socket.AF_INET, other.listening.getsockname())
        made.finder.send(json.dumps([listed]).encode())
        made.finder.close()
        for data in (b"first", b"second"):
            made.ask(data)
            with other.take(data) as conn:
                conn.sendall(b"\0\4good")
                assert made.asks.recv(100) == b"good"


def test_a_silent_server_is_left(monkeypatch):
    monkeypatch.setattr(limits, "LOOKUP_SECONDS", 0.2)
    with serving() as made:
        made.ask()
        with made.take() as conn:
            assert conn.recv(1) == b""
        assert made.asks.recv(100) == QUESTION[:2]


def test_few_questions_are_asked_at_a_time():
    """The guest's number of waiting questions is larger."""
    with serving() as made, ExitStack() as ours:
        for _ in range(limits.NAME_STREAMS):
            made.ask()
            ours.enter_context(made.take())
        made.ask(b"one more")
        assert made.asks.recv(100) == b"on", "it has no answer"
        own = ours.enter_context(socket.create_connection(made.listening.getsockname()))
        first, sender = made.listening.accept()
        ours.enter_context(first)
        assert sender == own.getsockname(), "the test's own is the next one"


def test_it_ends_with_its_parent():
    with serving() as made:
        made.ask()
        with made.take() as conn:
            made.asks.close()
            assert conn.recv(1) == b""


# -- taken over ------------------------------------------------------------------------


def attacked(monkeypatch, attack):
    """What the process says after an attack from inside; empty: it was killed."""

    def serve(asks, _news, _servers):
        asks.send(attack() or b"done")

    monkeypatch.setattr(name_streams, "serve", serve)
    with serving() as made:
        return made.asks.recv(100)


def test_it_connects_by_tcp(monkeypatch):
    """The attacks' control; to which address is its own choice."""

    def connect():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.connect_ex(("127.0.0.1", 9))

    assert attacked(monkeypatch, connect) == b"done"


def other(family, kind):
    """Make a socket, and close it."""
    with socket.socket(family, kind):
        pass


@pytest.mark.parametrize(
    "attack",
    [
        partial(other, socket.AF_INET, socket.SOCK_DGRAM),
        partial(other, socket.AF_UNIX, socket.SOCK_STREAM),
        partial(other, socket.AF_VSOCK, socket.SOCK_STREAM),
        partial(other, socket.AF_NETLINK, socket.SOCK_RAW),
        lambda: os.open("/etc/hostname", os.O_RDONLY),
        lambda: os.kill(os.getppid(), 0),
        lambda: os.execv("/bin/true", ["true"]),
        os.fork,
    ],
    ids=["udp", "unix", "vsock", "netlink", "open", "kill", "exec", "fork"],
)
def test_it_does_nothing_else(monkeypatch, attack):
    assert attacked(monkeypatch, lambda: attack() and b"done") == b""


def test_it_has_no_descriptor_of_its_parent(monkeypatch):
    read, write = os.pipe()
    os.write(write, b"x" * 100)

    def look():
        for fd in (read, write):
            try:
                os.write(fd, b"y") if fd == write else os.read(fd, 1)
            except OSError:
                continue
            return b"open"
        return b"closed"

    assert attacked(monkeypatch, look) == b"closed"
    for fd in (read, write):
        os.close(fd)
