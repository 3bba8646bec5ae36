"""Words by which it is seen whether one machine's bytes reach another's streams.

Each machine speaks and expects one word, and so does each lease at
the other end of the real pump.  Imports nothing of the tests but ``roles``: it
also runs inside a machine that has only the project.
"""

from __future__ import annotations

import socket

import trio

from broker.core.errors import RefusedError
from broker.core.names import SandboxName
from broker.net.hangup import given
from tests.kit.eventually import eventually

WORD = 16
WORK = SandboxName("work")


class Words:
    """The viewer's place: after the real pump each lease has a different word."""

    def __init__(self, pump):
        self._pump = pump
        self.next = b""
        self.of = {}
        self.heard = {}
        self.crossed = []

    async def lease_begun(self, lease):
        self.of[lease.id] = self.next
        await trio.lowlevel.checkpoint()

    async def lease_ended(self, lease, reason, *, machine_lives=False):
        await trio.lowlevel.checkpoint()

    async def stream_opened(self, opening, conn, *, task_status):
        word = self.of[opening.lease.id]
        with given(conn):
            ours, theirs = socket.socketpair()
            task_status.started()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._speak, ours, word, opening.lease.id)
                    try:
                        await self._pump.relay(
                            conn.detach(), theirs.detach(), name=str(opening.stream)
                        )
                    finally:
                        scope.cancel()
                        ours.close()

    async def _speak(self, sock, word, lease):
        sock.setblocking(False)
        held = b""
        try:
            while True:
                await trio.lowlevel.wait_readable(sock)
                data = sock.recv(4096)
                if not data:
                    return
                held += data
                for start in range(0, len(held) - WORD + 1, WORD):
                    if held[start : start + WORD] != word:
                        self.crossed.append((lease, held[start : start + WORD]))
                held = held[len(held) // WORD * WORD :]
                self.heard[lease] = self.heard.get(lease, 0) + len(data)
                try:
                    sock.send(word * 16)
                except BlockingIOError:
                    continue  # it hears enough
        except OSError:
            return

    async def wait_heard(self, lease, more, patience=120):
        """Until that lease's machine has been heard, for so many bytes."""
        await eventually(
            lambda: not (self.heard.get(lease, 0) < more), deadline=patience
        )


async def admitted(role, make):
    """The new machine's lease, as soon as the old one's is over."""
    while True:
        try:
            return await role.admit(WORK, WORK, make())
        except RefusedError:
            await trio.sleep(0)  # the old lease holds: it is being cut
