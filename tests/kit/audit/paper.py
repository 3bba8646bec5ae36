"""Fake workers, whose messages to the broker come from the test."""

from __future__ import annotations

import trio

from broker.core.errors import UpstreamError
from broker.ipc import agent, worker


class PaperWorker:
    """A fake worker that sends the test's messages."""

    def __init__(self):
        self.say, self.messages = trio.open_memory_channel(0)
        self.keeper_pid = 0
        self.orders = []
        self.rules = []
        self.deaf = False
        self.draws = trio.Event()
        self.draws.set()
        self.closed = trio.Event()

    async def send(self, message, fds=()):
        if self.deaf:
            raise UpstreamError("the worker of a has ended")
        self.orders.append(message)

    async def follow(self, rules):
        """Take other rules; nothing is drawn here."""
        self.rules.append(rules)

    async def windows(self):
        """Answer when the test lets it."""
        await self.draws.wait()
        if self.deaf:
            raise UpstreamError("the worker of a does not answer")
        return []

    async def wait_closed(self):
        await self.closed.wait()
        return "closed"

    async def close(self, reason="closed"):
        self.deaf = True
        self.say.close()
        self.closed.set()


class PaperWorkers:
    """Opens paper workers, when the test lets it."""

    def __init__(self):
        self.opened = []
        self.asked = trio.Event()
        self.may_open = trio.Event()
        self.may_open.set()

    async def open_worker(
        self, sandbox, display, compositor, *, rules, clients, chords=None
    ):
        self.asked.set()
        with trio.CancelScope(shield=True):  # as one that was just about to be there
            await self.may_open.wait()
        self.opened.append(PaperWorker())
        return self.opened[-1]


def hello(stream=1, programs=()):
    said = agent.AgentHello(agent.VERSION, "0.8.4", "6.1", list(programs))
    return worker.FromAgent(stream, said)
