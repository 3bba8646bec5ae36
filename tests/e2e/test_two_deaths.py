"""Either broker may die or be replaced at any time; a machine lives on."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from functools import partial

import pytest
import trio

from broker.cli.link.pairing.pinned import forget
from broker.net.link.wire_types import HEADER, VERSION, Role
from broker.net.link_service.key_store import LinkStore
from tests.kit.eventually import NeverError, eventually
from tests.kit.link.host import link_host
from tests.kit.link.two_brokers import pair, two
from tests.kit.shared import Shared
from tests.kit.wayland.compositor import steady, windows
from tests.kit.world import descriptors, record

RECORDS = {"work": record("persistent"), "app": record()}
between_two = Shared(partial(two, RECORDS))
"""Two brokers and a machine: each test ends with a link that is up."""


async def no_window(t):
    async def gone():
        return not windows(await t.viewer.comp.tree())

    assert await eventually(gone)


async def one_more(side, kind, before):
    """Wait for the event after those that were there; returns it."""

    async def came():
        return side.events(kind)[before:]

    (event,) = await eventually(came)
    return event


async def known(t):
    """Wait until the machine's agent has said hello to the viewer (again)."""

    async def look():
        found = (await t.viewer.status()).sandboxes
        return found and found[0].state == "running"

    await eventually(look, deadline=100)


@pytest.mark.slow
@between_two.test
async def test_a_viewer_that_is_killed_comes_back_to_its_machines(t):
    assert await t.viewer.window("work", "before") == "work"
    (lease,) = (await t.host.status()).leases
    machine = await t.host.pid_of("QEMU")
    downs, ups = (len(t.host.events(f"link.{now}")) for now in ("down", "up"))
    await t.viewer.kill()
    await no_window(t)
    await one_more(t.host, "link.down", downs)

    async def cut():
        return not (await t.host.status()).streams

    assert await eventually(cut), "the host cut what belonged to the old epoch"

    await t.viewer.start()
    await t.up()
    await known(t)
    assert (await t.viewer.status()).leases[0].id == lease.id
    assert await t.host.pid_of("QEMU") == machine, "the machine lived on"
    assert await t.viewer.window("work", "after") == "work"
    assert len(t.host.events("link.up")) == ups + 1


@pytest.mark.slow
@between_two.test
async def test_a_host_that_is_killed_comes_back_with_its_machines(t):
    await t.viewer.window("work", "before")
    (old,) = (await t.host.status()).leases
    machine = await t.host.pid_of("QEMU")
    downs = len(t.viewer.events("link.down"))
    await t.host.kill()
    await no_window(t)
    down = await one_more(t.viewer, "link.down", downs)
    assert "without Bye" in down["reason"] or "failed" in down["reason"]
    viewer = await t.viewer.status()
    assert (viewer.sandboxes, viewer.leases, viewer.streams) == ([], [], [])

    await t.host.start()
    await t.up()
    assert await t.host.pid_of("QEMU") == machine
    await known(t)
    (new,) = (await t.viewer.status()).leases
    assert new.id != old.id, "a lease is its broker's; the machine got another"
    await t.viewer.window("work", "after")


async def test_an_orderly_end_is_a_goodbye_and_the_link_comes_back():
    async with two(image=False) as t:
        for side, other in ((t.viewer, t.host), (t.host, t.viewer)):
            await side.shutdown()

            async def left(other=other):
                # Its end, a while ago, is on record, too.
                down = other.events("link.down")[-1:]
                return down and "left" in down[0]["reason"]

            await eventually(left)

            async def says_why(other=other):
                return (await other.link()).problem

            await eventually(says_why)
            await side.start()
            await t.up()


async def test_a_forgotten_broker_is_cut_while_it_is_connected():
    async with two(image=False) as t:
        forget(LinkStore(t.viewer.paths), "desk")
        down = await t.viewer.wait_event("link.down")
        assert down["reason"] == "this broker forgot the peer's key"

        async def refused():
            return "does not know this broker's key" in (await t.host.link()).problem

        assert await eventually(refused), "and hears why, at its next attempt"
        pair(t.host, t.viewer)
        await t.up()


async def test_a_squatter_on_the_viewers_port_learns_no_payload():
    """It reads what a host sends first, answers as it likes, and gets nothing."""
    async with two(image=False, start=False) as t:
        with socket.socket(socket.AF_UNIX) as squatter:
            squatter.bind(str(t.socket))
            squatter.listen(8)
            squatter.settimeout(0)
            await t.host.start()
            said = []
            for answer in (b"", b"VTRL-CTL" + secrets.token_bytes(400)):
                with trio.fail_after(60):
                    await trio.lowlevel.wait_readable(squatter)
                conn, _ = squatter.accept()
                with conn:
                    await trio.lowlevel.wait_readable(conn)
                    said.append(conn.recv(4096))
                    conn.sendall(answer)
            assert all(len(hello) == 84 for hello in said), "a HELLO, no more"
            assert said[0][44:] != said[1][44:], "never the same fresh key"
        assert (await t.host.link()).state != "up"
        os.unlink(t.socket)
        await t.viewer.start()
        await t.up()


async def test_a_viewer_of_another_version_is_said_plainly_by_the_host():
    """Its status names both versions, and the cure; the viewer's, test_link_doors."""
    async with two(image=False, start=False) as t:
        with socket.socket(socket.AF_UNIX) as newer:
            newer.bind(str(t.socket))
            newer.listen(8)
            newer.settimeout(0)
            await t.host.start()
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(newer)
            conn, _ = newer.accept()
            with conn:
                await trio.lowlevel.wait_readable(conn)
                assert HEADER.unpack_from(conn.recv(4096))[1] == VERSION
                refusal = HEADER.pack(b"VTRL-CTL", VERSION + 1, 5, Role.VIEWER)
                conn.sendall(refusal + bytes(1))

                async def said():
                    link = await t.host.link()
                    return "version" in link.problem and link

                # Kept: once nobody listens any more, the next attempt has another.
                link = await eventually(said, deadline=60)
        versions = (
            f"version {VERSION + 1} of the link, but this one uses version {VERSION}"
        )
        assert versions in link.problem
        assert "same release" in link.cure
        os.unlink(t.socket)
        await t.viewer.start()
        await t.up()


async def test_reconnecting_leaves_nothing():
    async with two(image=False) as t:
        host = await t.host.broker_pid()
        viewer = await t.viewer.broker_pid()

        async def census():
            """Quiet numbers: none of our connections but this one's own."""
            statuses = (await t.host.status(), await t.viewer.status())
            return [s.tasks for s in statuses], descriptors(host)["socket"]

        async def counted():
            return await census(), descriptors(viewer)["socket"]

        before = await steady(counted)
        for number in range(20):
            async with link_host(t):  # the same key: it takes the link over
                pass
            want = 2 + number

            async def again(want=want):
                return len(t.host.events("link.up")) >= want

            assert await eventually(again)
            await t.up()

        async def as_before():
            return await counted() == before

        try:
            await eventually(as_before)
        except NeverError:
            assert await counted() == before


@pytest.mark.slow
@between_two.test
async def test_a_hosts_pump_that_is_killed_leaves_no_program_waiting(t):
    """Its streams had bytes under way; no program inside hears of their ends."""
    flood = "while :; do echo $RANDOM; done"
    last, _ = await t.viewer.run("app", "foot", "-T", "flood", "sh", "-c", flood)
    sandbox = last.started.sandbox
    os.kill(await t.host.pid_of("pump"), signal.SIGKILL)
    await no_window(t)
    # The program ends, and with it its disposable machine.
    await t.viewer.wait_event("program.exited", deadline=60, sandbox=sandbox)
    await t.host.wait_event("lease.end", deadline=60, sandbox=sandbox)
    assert await t.viewer.window("app", "after")
