"""Questions about a stream that comes over the link, which has no deadline.

A real viewer process; the test is its host.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import trio

from broker.core.services import AGENT
from broker.ipc.control.api import Nothing, QuestionAnswerRequest
from broker.ipc.control.methods import ANSWER, PENDING
from broker.ipc.host_rows import LEASE_ENDED, LeaseEnded
from broker.net.link.preamble import PreambleVerdict
from tests.kit.eventually import eventually
from tests.kit.link.host import announce, close_all, link_host, rest_of, say
from tests.kit.link.two_brokers import two

ASK = "vitrail.Agent * @anyvm @adminvm ask remember=session\n"


async def verdict_of(sock, offer):
    """The viewer's word about a stream."""
    from broker.net.link_service.sockets import receive

    with trio.fail_after(30):
        while offer.verdict is None:
            offer.feed(await receive(sock, offer.needed))
    return offer.verdict


@asynccontextmanager
async def asked(text=ASK):
    """A viewer with that rule, and a stream of a leased sandbox that it has taken."""
    async with two(start=False, image=False) as t:
        t.viewer.write_rules(text, "30-ask")
        await t.viewer.start()
        try:
            async with link_host(t) as epoch:
                lease = await announce(epoch)
                offer = epoch.opener.open(AGENT, lease.id)
                sock = await say(t.socket, offer.preamble)
                assert await verdict_of(sock, offer) is PreambleVerdict.TAKEN
                (question,) = await eventually(lambda: pending(t))
                assert question.sandbox == lease.sandbox
                yield t, epoch, lease, sock, question
        finally:
            close_all()


async def pending(t):
    async with t.viewer.client() as client:
        return (await client.call(PENDING, Nothing())).questions


async def say_so(t, question, *, allow):
    async with t.viewer.client() as client:
        await client.call(ANSWER, QuestionAnswerRequest(id=question.id, allow=allow))


async def test_it_is_taken_at_once_and_hung_up_on_for_a_no():
    async with asked() as (t, _, _lease, sock, question):
        assert t.viewer.events("decision") == []
        assert t.viewer.events("stream.opened") == []
        await say_so(t, question, allow=False)
        assert await rest_of(sock) == b""
        event = await t.viewer.only_event("decision")
        assert (event["verdict"], event["answered_by"]) == ("deny", "person")
        answered = await t.viewer.only_event("question.answered")
        assert answered["reason"].endswith(f"by process {os.getpid()}")
        assert t.viewer.events("stream.opened") == []


async def test_it_goes_on_after_a_yes():
    async with asked() as (t, _, _lease, sock, question):
        await say_so(t, question, allow=True)
        await t.viewer.wait_event("stream.opened")
        assert await pending(t) == []
        sock.close()


async def test_a_lease_that_ends_takes_its_question_along():
    """Nor does a host that has gone keep a dialog on the screen."""
    async with asked() as (t, epoch, lease, sock, _question):
        await epoch.call(LEASE_ENDED, LeaseEnded(lease.id, "the test says so"))

        async def nothing():
            return not await pending(t)

        await eventually(nothing)
        event = await t.viewer.only_event("question.answered")
        assert (event["answer"], event["answered_by"]) == ("deny", "gone")
        assert await rest_of(sock) == b""


async def test_hanging_up_is_leaving():
    async with asked() as (t, epoch, _lease, sock, _question):
        epoch.end("the host goes")

        async def nothing():
            return not await pending(t)

        await eventually(nothing)
        sock.close()
