"""The tutorial's commands that need a machine, run in its order.

tests/integration/test_tutorial.py runs the others, and knows each by name.
"""

from __future__ import annotations

import os
import shlex
import signal

import pytest
import trio

from broker.helpers.process.spawn import PIPE, run_tool
from tests.integration.test_tutorial import IN_MACHINES
from tests.kit.eventually import eventually
from tests.kit.first_hour import hour
from tests.kit.wayland.compositor import wait_window, windows
from tests.kit.world import the_image

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


class Reader:
    """A person who types the page's commands; ``left`` are those not typed yet."""

    def __init__(self, h):
        self.h = h
        self.left = list(IN_MACHINES)

    def _words(self, command):
        if command in self.left:
            self.left.remove(command)
        words = shlex.split(command)
        assert words.pop(0) == "brokerctl"
        return words

    async def types(self, command, *more, code=0):
        """``more`` is an answer at a terminal."""
        words = [*self._words(command), *more]
        return await self.h.types(*words, code=code, deadline=500)

    def begins(self, command):
        return self.h.begins(*self._words(command), stdout=PIPE)

    async def shell(self, command):
        self.left.remove(command)
        await run_tool(["sh", "-c", command], env=self.h.env)


async def test_the_commands_that_need_a_machine():
    await the_image()
    async with hour() as h:
        await h.vitrail.install("0.1.0")
        r = Reader(h)
        await r.types("brokerctl new demo --from demo")
        await r.types("brokerctl new work --from work")
        async with h.step("a terminal, closed by Ctrl-C"):
            await a_terminal(r)
        async with h.step("the audit log"):
            rows = (await r.types("brokerctl audit connections")).out
            assert "vitrail.Display" in rows
            assert "demo-" in (await r.types("brokerctl audit --since today")).out
            decisions = await r.types("brokerctl audit --kind decision --json")
            assert "demo.toml" in decisions.out
        async with h.step("a persistent sandbox"):
            await a_persistent_one(h, r)
        async with h.step("a question, a grant, its revocation"):
            await a_grant(h, r)
        async with h.step("without a window"):
            done = await r.types("brokerctl run --no-window demo -- uname -a")
            assert done.out.startswith("Linux demo-")
        assert r.left == []


async def a_terminal(r):
    async with r.begins("brokerctl run demo") as run:
        await wait_window(r.h.comp, title="[demo-", deadline=500)
        os.kill(run.pid, signal.SIGINT)
        with trio.fail_after(90):
            assert await run.wait() == 130


async def a_persistent_one(h, r):
    await r.types("brokerctl run --detach work")
    async with r.begins("brokerctl run work -- foot") as second:

        async def two():
            found = windows(await h.comp.tree())
            return len([w for w in found if w["name"].startswith("[work]")]) == 2

        await eventually(two, deadline=120)
        assert "work" in (await r.types("brokerctl status")).out
        await r.types("brokerctl stop work")
        with trio.fail_after(90):
            assert await second.wait() != 0
    await r.types("brokerctl sandbox snapshot work before")
    await r.types("brokerctl sandbox restore work before", "--yes")


async def a_grant(h, r):
    for command in [c for c in IN_MACHINES if not c.startswith("brokerctl")]:
        await r.shell(command)
    await r.types("brokerctl policy check")
    async with r.begins("brokerctl run demo") as run:
        (question,) = await eventually(h.questions, deadline=500)
        await h.types("answer", str(question.id), "allow", "--keep", "session")
        await wait_window(h.comp, title="[demo-", deadline=120)
        assert "demo-" in (await r.types("brokerctl grants")).out
        await r.types("brokerctl grants revoke --all")

        async def closed():
            return not windows(await h.comp.tree())

        await eventually(closed, deadline=60)
        with trio.fail_after(120):
            await run.wait()
    (h.config / "policy.d" / "30-mine.policy").unlink()
