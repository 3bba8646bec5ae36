"""A link that is up and silent, or lost: status, windows and a run say so."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import trio

from broker.ipc.control.api import RunRequest
from broker.ipc.control.methods import RUN
from tests.kit import hurried_viewer
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.wayland.compositor import windows
from tests.kit.world import record


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
                assert "cut after 900 s" in link.problem
                nursery.cancel_scope.cancel()
        finally:
            os.kill(host, signal.SIGCONT)

        async def well():
            link = await t.viewer.link()
            return link.state == "up" and not link.problem

        assert await eventually(well)


async def titles(t):
    return [window["name"] for window in windows(await t.viewer.comp.tree())]


@pytest.mark.slow
async def test_windows_of_a_stopped_host_stay_and_are_marked():
    async with two({"work": record("persistent")}, start=False) as t:
        t.viewer.module = hurried_viewer.__name__
        await t.viewer.start()
        await t.host.start()
        await t.up()
        await t.viewer.window("work", "before")
        host = await t.host.broker_pid()

        async def marked():
            return [title for title in await titles(t) if "work frozen" in title]

        async def unmarked():
            return not await marked() and await titles(t)

        os.kill(host, signal.SIGSTOP)
        try:
            assert await eventually(marked, deadline=40)
        finally:
            os.kill(host, signal.SIGCONT)
        assert len(await eventually(unmarked)) == 1, "the same window"
        assert (await t.viewer.link()).epochs == 1


@pytest.mark.slow
async def test_status_of_both_names_the_programs_that_ended_with_the_link():
    records = {"work": record("persistent")}
    async with two(records, carried=True) as t:
        await t.viewer.window("work", "before")
        await t.transport.kill()

        async def loss_of(side):
            return (await side.link()).loss

        for side in (t.viewer, t.host):
            text = await eventually(partial(loss_of, side))
            assert text.startswith(
                "1 program with windows ended with the link, in work (1): "
            )
        assert not windows(await t.viewer.comp.tree())
        await t.transport.start()
        await t.up()
        assert await loss_of(t.viewer), "also after the link is there again"
        output = await t.viewer.said("status")
        assert "ago 1 program with windows ended with the link" in output
