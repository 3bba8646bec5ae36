"""The events around a stream: one before its first byte, one however it ends."""

from __future__ import annotations

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.core.lease import Lease, Opening
from broker.core.names import LeaseId, SandboxName
from broker.core.services import DISPLAY
from broker.host_and_viewer.stream_events import (
    StreamEvents,
    StreamOutcome,
    relay_stream,
)
from broker.ipc.audit import schema
from broker.ipc.pump import EndReason, StreamEnd

OPENING = Opening(
    Lease(LeaseId("0" * 16), SandboxName("work"), SandboxName("work"), 1),
    DISPLAY,
    7,
    "a test",
)


class Log:
    """Keeps events; takes none that is required when it is full."""

    def __init__(self):
        self.events = []
        self.full = False

    async def require(self, event):
        await trio.lowlevel.checkpoint()
        if self.full:
            raise UpstreamError("the audit log cannot be written")
        self.events.append(event)

    async def note(self, event):
        await trio.lowlevel.checkpoint()
        self.events.append(event)


async def test_a_stream_has_an_event_before_it_and_one_behind():
    log = Log()
    async with StreamEvents(log).carry(OPENING, "worker") as outcome:
        (opened,) = log.events
        assert isinstance(opened, schema.StreamOpened)
        assert (opened.stream, opened.mode) == (7, "worker")
        outcome.reason, outcome.counts = "it left", (3, 4)
    closed = log.events[1]
    assert (closed.reason, closed.bytes_from_sandbox, closed.bytes_to_sandbox) == (
        "it left",
        3,
        4,
    )


async def test_a_stream_that_cannot_be_recorded_is_not_carried():
    log = Log()
    log.full = True
    with pytest.raises(UpstreamError):
        async with StreamEvents(log).carry(OPENING, "worker"):
            raise AssertionError
    assert log.events == []


async def test_a_stream_that_is_cut_has_its_end_recorded():
    log = Log()
    with trio.CancelScope() as scope:
        async with StreamEvents(log).carry(OPENING, "worker") as outcome:
            outcome.counts = 1, 2
            scope.cancel()
            await trio.sleep_forever()
    assert [type(event) for event in log.events] == [
        schema.StreamOpened,
        schema.StreamClosed,
    ]
    assert (log.events[1].reason, log.events[1].bytes_to_sandbox) == ("cut", 2)


@pytest.mark.parametrize(
    ("before", "recorded"), [("", "the worker is gone"), ("it left", "it left")]
)
async def test_an_error_is_the_reason_where_there_is_no_other(before, recorded):
    log = Log()

    async def fail():
        async with StreamEvents(log).carry(OPENING, "worker") as outcome:
            outcome.reason = before or outcome.reason
            raise UpstreamError("the worker is gone")

    with pytest.raises(UpstreamError):
        await fail()
    assert log.events[1].reason == recorded
    assert log.events[1].bytes_from_sandbox is None


class Pump:
    def __init__(self, end):
        self.end = end

    async def relay(self, a, b, *, name, settle):
        await trio.lowlevel.checkpoint()
        assert (a, b, name) == (10, 11, "7")
        if isinstance(self.end, Exception):
            raise self.end
        settle(self.end)
        if self.end.reason is EndReason.ABORTED:
            await trio.sleep_forever()  # the caller was cancelled
        return self.end


async def test_the_outcome_is_the_pump_s_count_and_the_bytes_sent_before():
    outcome = StreamOutcome()
    end = StreamEnd(100, 5, EndReason.END)
    await relay_stream(Pump(end), OPENING, (10, 11), outcome, head=16)
    assert outcome == StreamOutcome(end.describe(), (116, 5))


async def test_a_stream_that_is_cut_has_the_pump_s_counts():
    outcome = StreamOutcome()
    with trio.move_on_after(0.1):
        aborted = StreamEnd(100, 5, EndReason.ABORTED)
        await relay_stream(Pump(aborted), OPENING, (10, 11), outcome, head=16)
    assert outcome == StreamOutcome("cut", (116, 5))


async def test_the_counts_of_a_pump_that_died_are_not_known():
    outcome = StreamOutcome()
    died = StreamEnd(0, 0, EndReason.PUMP_DIED)
    await relay_stream(Pump(died), OPENING, (10, 11), outcome, head=16)
    assert outcome.counts is None


async def test_a_pump_that_dies_is_the_reason():
    outcome = StreamOutcome(counts=(0, 0))
    await relay_stream(Pump(UpstreamError("it died")), OPENING, (10, 11), outcome)
    assert outcome == StreamOutcome("it died", (0, 0))
