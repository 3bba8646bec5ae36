"""A fork server's own side: its clients, and children that cannot be kept."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager

import msgspec
import pytest

from broker.helpers.process import fork_server
from broker.helpers.worker_jail.entering import close_others
from broker.ipc import fork_server as messages
from broker.wire import fdpass
from broker.wire.call_messages import (
    AnswerMessage,
    CallMessage,
    decode_message,
    encode_message,
)
from broker.wire.calls import MESSAGE_BYTES


@contextmanager
def serving(*clients, run):
    """A process that serves these sockets; yields its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            close_others([client.fileno() for client in clients])
            server = fork_server.ForkLoop()
            starts = {messages.FORK_PUMP: fork_server.forking(run)}
            for client in clients:
                server.add_fork_client(client, starts)
            server.run()
            os._exit(0)
        finally:
            os._exit(1)
    for client in clients:
        client.close()
    yield pid
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def call_bytes(number, row):
    """The call of a row whose request has no fields."""
    return encode_message(CallMessage(number, row, msgspec.Raw(b"\x80")))


def send_call(sock, number, fd):
    """Call for a child, which has the descriptor twice."""
    fdpass.send(sock, call_bytes(number, "ForkPump"), [fd, fd])


def receive(sock):
    """The server's next message, and its descriptors."""
    sock.settimeout(30)
    got = fdpass.receive(sock, MESSAGE_BYTES, 2)
    return decode_message(got.data), got.fds


def answer_of(sock, number):
    """The descriptors of a child that was called for."""
    message, fds = receive(sock)
    assert isinstance(message, AnswerMessage)
    assert message.call == number
    return fds


def order(sock, number):
    """Order a child; returns our end of its socket, and the pidfd."""
    ours, theirs = socket.socketpair()
    send_call(sock, number, theirs.fileno())
    theirs.close()
    pidfd, end = answer_of(sock, number)
    os.close(end)
    return ours, pidfd


def tell_files(_order, fds):
    """Say which sockets this process has, then wait for the end."""
    sock = socket.socket(fileno=fds[0])
    os.close(fds[1])
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue  # of the listing itself
    sock.send("\n".join(n for n in names if n.startswith("socket:")).encode())
    sock.recv(1)


def packets():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def name_of(sock):
    return os.readlink(f"/proc/self/fd/{sock.fileno()}")


def test_a_child_has_the_socket_of_no_client_and_no_other_child():
    (a, a_end), (b, b_end) = packets(), packets()
    foreign = {name_of(a_end), name_of(b_end)}
    with serving(a_end, b_end, run=tell_files):
        first, one = order(a, 1)
        second, two = order(b, 1)
        told = [set(s.recv(4096).decode().split("\n")) for s in (first, second)]
        assert not told[0] & told[1]
        assert not foreign & (told[0] | told[1])
        for sock in (first, second, a, b):
            sock.close()
        os.close(one)
        os.close(two)


def test_a_client_that_leaves_ends_neither_server_nor_children():
    (a, a_end), (b, b_end) = packets(), packets()
    with serving(a_end, b_end, run=tell_files):
        first, one = order(a, 1)
        a.close()
        second, two = order(b, 1)
        assert first.recv(4096)
        assert second.recv(4096)
        for sock in (first, second, b):
            sock.close()
        os.close(one)
        os.close(two)


def test_a_client_that_leaves_an_order_unanswered_ends_no_other():
    (a, a_end), (b, b_end) = packets(), packets()
    sock, theirs = socket.socketpair()
    for number in range(1, 4):
        send_call(a, number, theirs.fileno())
    a.close()
    theirs.close()
    sock.close()
    with serving(a_end, b_end, run=tell_files):
        second, two = order(b, 1)
        assert second.recv(4096)
        for mine in (second, b):
            mine.close()
        os.close(two)


def test_a_client_whose_order_cannot_be_received_ends_no_other():
    """As when this process has no descriptor left, or too many are on their way."""
    (a, a_end), (b, b_end) = packets(), packets()
    socket.send_fds(a, [b"an order"], [0] * (messages.DESCRIPTORS + 1))
    with serving(a_end, b_end, run=tell_files):
        second, two = order(b, 1)
        assert second.recv(4096)
        a.settimeout(30)
        assert a.recv(1) == b""
        for sock in (second, a, b):
            sock.close()
        os.close(two)


def test_a_child_that_nobody_can_hold_is_not_left_running(monkeypatch):
    made = []

    def full(pid):
        made.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    start = fork_server.forking(lambda _order, _fds: signal.pause())
    with pytest.raises(OSError, match="Too many open files"):
        start(messages.ForkPump(), [], lambda: None)
    try:
        assert not os.path.exists(f"/proc/{made[0]}")
    finally:
        with pytest.raises(ProcessLookupError):
            os.kill(made[0], signal.SIGKILL)
