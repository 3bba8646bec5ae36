"""A program in a guest, the real process between, and a software token."""

from __future__ import annotations

import contextlib
import socket
from contextlib import asynccontextmanager

import trio

from broker.core.errors import RefusedError
from broker.core.lease import Opening
from broker.core.services import SECURITY_KEY
from broker.jail.security_key.ctaphid import (
    BROADCAST,
    Assembler,
    CtapHidCommand,
    CtapHidMessage,
    reports_of,
)
from broker.viewer.security_keys import security_keys
from broker.viewer.security_keys.shared_key import SharedKey
from tests.kit.rulebook import WORK
from tests.kit.session import SigningPermits, starter_of_orders
from tests.kit.usb.token import Token, serve_token


class Program:
    """A program in the guest."""

    def __init__(self, sock):
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.reports = Assembler()
        self.rest = b""

    async def send(self, channel, command, payload):
        for report in reports_of(CtapHidMessage(channel, command, payload)):
            await self.stream.send_all(report)

    async def receive(self):
        while True:
            while len(self.rest) < 64:
                more = await self.stream.receive_some(64)
                if not more:
                    return None
                self.rest += more
            report, self.rest = self.rest[:64], self.rest[64:]
            message = self.reports.feed(report)
            if message is not None and message.command != CtapHidCommand.KEEPALIVE:
                return message

    async def begin(self):
        await self.send(BROADCAST, CtapHidCommand.INIT, b"abcdefgh")
        message = await self.receive()
        return message and int.from_bytes(message.payload[8:12], "big")


def starter_with_key(key, prepare=""):
    """A session whose security key is this socket; see ``starter_of_orders``."""
    place = "import os, broker.session.security_keys.key_device as module\n"
    place += "module.open_key = lambda: os.dup(int(fds[2]))\n"
    return starter_of_orders(prepare=place + prepare, more=[key.fileno()])


@asynccontextmanager
async def connected(b, *, lease=WORK, token=None, prepare=""):
    """A guest's program, through the real process, with a token.

    ``prepare``: as of ``starter_of_orders``.
    """
    token = token or Token()
    shared = b.__dict__.setdefault("shared_key", SharedKey())
    hidraw, key = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    guest, conn = socket.socketpair()
    hidraw.settimeout(0)
    opening = Opening(lease, SECURITY_KEY, 1, "cid 20")
    with hidraw, key, guest, conn, starter_with_key(key, prepare) as session:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_token, hidraw, token)

            async def carry(task_status=trio.TASK_STATUS_IGNORED):
                # Its caller's, who closes it at the end; a refusal is recorded.
                with conn, contextlib.suppress(RefusedError):
                    await security_keys.carry(
                        opening,
                        conn,
                        SigningPermits(session, b.decider),
                        shared,
                        session,
                        task_status=task_status,
                    )
                    return
                if not begun.is_set():
                    task_status.started()

            begun = trio.Event()
            await nursery.start(carry)
            begun.set()
            program = Program(guest)
            async with program.stream:
                yield program, token
            nursery.cancel_scope.cancel()
