"""The broker's end of a worker, with a channel of the test's."""

from __future__ import annotations

from dataclasses import replace

import trio

from broker.core.names import SandboxName
from broker.core.streams.wayland_rules import WindowRules
from broker.ipc.wayland_rules import order_of
from broker.ipc.worker import encode
from broker.viewer.workers.process import Worker, WorkerProcesses


class Orders:
    """Takes orders."""

    def __init__(self):
        self.taken = []

    async def send(self, data, fds=()):
        await trio.lowlevel.checkpoint()
        self.taken.append(data)


async def test_rules_for_windows_that_were_given_up_are_sent_later():
    """Else nobody would tell them to the worker again."""
    orders, before = Orders(), WindowRules(SandboxName("a"))
    worker = Worker(before.name, WorkerProcesses(None, None, None, orders), before)
    after = replace(before, color=0xFF0000)
    with trio.move_on_after(0):
        await worker.follow(after)
    for _ in range(2):
        await worker.follow(after)
    assert orders.taken == [encode(order_of(after))]
