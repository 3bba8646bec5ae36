"""A link that is up and silent: its status and a run say so before it is cut."""

from __future__ import annotations

import os
import signal

import trio

from broker.ipc.control.api import RunRequest
from broker.ipc.control.methods import RUN
from tests.kit import hurried_viewer
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two


async def test_a_host_that_is_stopped_is_told_to_who_runs_and_in_the_status():
    async with two(start=False, image=False) as t:
        t.viewer.module = hurried_viewer.__name__
        await t.viewer.start()
        await t.host.start()
        await t.up()
        host = await t.host.broker_pid()
        told = []

        async def take(item):
            told.append("" if item.progress is None else item.progress.detail)

        async def run():
            async with t.viewer.client() as client:
                await client.call(RUN, RunRequest(record="app", argv=["foot"]), take)

        os.kill(host, signal.SIGSTOP)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)

                async def silent():
                    return any("desk has sent nothing for" in text for text in told)

                assert await eventually(silent, deadline=40), told
                link = await t.viewer.link()
                assert link.state == "up"
                assert link.problem.startswith("desk has sent nothing for ")
                assert "cut after 60 s" in link.problem
                nursery.cancel_scope.cancel()
        finally:
            os.kill(host, signal.SIGCONT)

        async def well():
            link = await t.viewer.link()
            return link.state == "up" and not link.problem

        assert await eventually(well)
