"""Questions to this machine's name servers by TCP (RFC 7766), where UDP cut the answer.

A process that the flow filter's forks before it gives up connecting: a filter of system
calls cannot tell addresses apart.  This one connects to the name servers alone, each
question by a connection, and reads of what passes only its length; it has no socket but
that to its parent, and may make none but of TCP.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from broker.core.limits import network as limits
from broker.helpers.filters.descriptor_filter import descriptor_rules
from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.forked_part import fork_part
from broker.helpers.process.hardening import confine
from broker.host.network.flowguard.name_servers import (
    LIST_BYTES,
    close_others,
    servers_of,
)

_KIND = 0xF
_LENGTH_BYTES = 2


def start(resolvers: Sequence[socket.socket], news: socket.socket) -> socket.socket:
    """Start the process, which closes ``news``; return the socket by which it is asked.

    ``resolvers``: sockets that are connected to the name servers.  ``news``: lists of
    others that take their place.  A question is a packet
    of the server's number in a byte and the DNS message, an answer the message alone; of
    a question without an answer it is the message's number alone.  Raises SetupError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    servers = [(one.family, one.getpeername()) for one in resolvers]
    with theirs, news:
        part = fork_part("vitrail-names", partial(_become, theirs, news, servers))
    os.close(part.pidfd)  # its end is that of the socket
    ours.settimeout(0)
    return ours


def _become(
    asks: socket.socket, news: socket.socket, servers: Sequence[tuple[int, Any]]
) -> None:
    # The parent's sockets end with the parent.
    # guard: the process that asks by TCP holds nothing of its parent's
    close_others(asks, news)
    rules = descriptor_rules(libseccomp.KILL_PROCESS)
    rules.allow(("poll", "ppoll", "connect"))
    stream = rules.masked(1, _KIND, socket.SOCK_STREAM)
    for family in (socket.AF_INET, socket.AF_INET6):
        # guard: the process that asks by TCP makes no other socket
        rules.allow_if("socket", rules.equal(0, family), stream)
    confine(rules.program())
    serve(asks, news, servers)
    os._exit(0)  # the interpreter's own end needs system calls that it gave up


def serve(
    asks: socket.socket, news: socket.socket, servers: Sequence[tuple[int, Any]]
) -> None:
    """Serve questions until the parent ends."""
    exchanges: dict[int, _Exchange] = {}
    while True:
        poll = select.poll()
        poll.register(asks, select.POLLIN)
        if news.fileno() >= 0:
            poll.register(news, select.POLLIN)
        for fd, exchange in exchanges.items():
            poll.register(fd, select.POLLOUT if exchange.unsent else select.POLLIN)
        happened = dict(poll.poll(1000 if exchanges else None))
        now = time.monotonic()
        if news.fileno() in happened:
            servers = _others(news) or servers
        if asks.fileno() in happened:
            untrusted_question = asks.recv(1 + limits.QUESTION_BYTES)
            if not untrusted_question:
                return
            family, server = servers[untrusted_question[0] % len(servers)]
            exchange = _Exchange(family, untrusted_question[1:], now)
            # guard: few questions are asked by TCP at a time
            if len(exchanges) < limits.NAME_STREAMS and exchange.connect(server):
                exchanges[exchange.sock.fileno()] = exchange
            else:
                exchange.end(asks)
        for fd, exchange in list(exchanges.items()):
            over = fd in happened and exchange.go_on()
            # guard: a name server that answers nothing by TCP is left
            if over or now > exchange.until:
                exchange.end(asks)
                del exchanges[fd]


def _others(news: socket.socket) -> list[tuple[int, Any]]:
    """Read other servers; none if the process that finds them has ended."""
    data = news.recv(LIST_BYTES)
    if not data:
        news.close()
        return []
    return servers_of(data)


class _Exchange:
    """One question by a connection, and its answer."""

    def __init__(self, family: int, question: bytes, now: float) -> None:
        self.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.unsent = len(question).to_bytes(_LENGTH_BYTES) + question
        self.until = now + limits.LOOKUP_SECONDS
        self._number = question[:2]
        self._untrusted_data = bytearray()

    def connect(self, server: Any) -> bool:  # noqa: ANN401 -- as getpeername gave it
        """Begin to connect; return False if that fails at once."""
        return self.sock.connect_ex(server) in {0, errno.EINPROGRESS}

    def go_on(self) -> bool:
        """Send or receive what is possible; return whether it is over."""
        try:
            if self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
                return False
            data = self.sock.recv(limits.STREAM_ANSWER_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True  # ``end`` says that there is no answer
        self._untrusted_data += data
        return not data or bool(self._answer())

    def _answer(self) -> bytes:
        """Return the answer; empty: it is not whole."""
        data = self._untrusted_data
        size = int.from_bytes(data[:_LENGTH_BYTES])
        answer = bytes(data[_LENGTH_BYTES : _LENGTH_BYTES + size])
        return answer if len(answer) == size else b""

    def end(self, asks: socket.socket) -> None:
        """Send the answer to the parent, or that none exists."""
        self.sock.close()
        asks.send(self._answer() or self._number)
