"""The log as the roles use it, when it cannot be written."""

from __future__ import annotations

import os
import sys

import pytest

from broker.authority.audit.event_log import of, of_stream
from broker.authority.audit.journal import Journal
from broker.authority.audit.refusals import Refusals
from broker.authority.audit.settings import AuditMode
from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.lease import Opening
from broker.core.services import DISPLAY
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from tests.kit.link.roles import LEASE, full_disk, journal


async def test_a_full_disk_takes_the_log_and_standard_error(tmp_path, monkeypatch):
    """A required event that fails refuses its effect; a note that fails is not an error."""
    event = schema.BrokerStop(reason="asked to end")
    async with journal(tmp_path) as log:
        with full_disk() as full:
            monkeypatch.setattr(sys, "stderr", full)
            monkeypatch.setattr(log._store, "_write", _no_space)
            with pytest.raises(UpstreamError, match="No space left"):
                await log.require(event)
            await log.note(event)
            await log.note(event)
            monkeypatch.undo()
        await log.require(event)  # there is room again
        # And what could not be told then is counted now.
        assert log._store.statistics().events == 2
    (gap,) = _events(tmp_path, "audit.gap")
    assert (gap["count"], gap["last"]) == (2, "broker.stop")


def _events(directory, kind):
    (path,) = directory.rglob("*.sqlite")
    with open_log(path) as log:
        return [found.fields() for found in log.find(Filters(kinds=[kind]))]


async def test_best_effort_refuses_nothing_and_counts(tmp_path, monkeypatch):
    event = schema.BrokerStop(reason="asked to end")
    async with journal(tmp_path) as plain:
        log = Journal(plain._store, plain._refusals, mode=AuditMode.BEST_EFFORT)
        with monkeypatch.context() as machine:
            machine.setattr(log._store, "_write", _no_space)
            assert log.warnings() == []
            for _ in range(5):
                await log.require(event)
            assert (
                "5 events could not be recorded; recording still" in log.warnings()[0]
            )
        await log.require(event)
        await log.require(event)
    (gap,) = _events(tmp_path, "audit.gap")
    assert gap["count"] == 5
    assert log.warnings()[0].startswith("5 events could not be recorded; see ")
    assert len(_events(tmp_path, "broker.stop")) == 2


def _no_space(*_):
    raise OSError(28, os.strerror(28))


class DeadStore:
    """A store that fails as a full or missing disk makes it."""

    async def record(self, event):
        raise UpstreamError("the audit log cannot be written")


async def test_a_note_is_never_an_error_and_a_requirement_always_is(capsys):
    store = DeadStore()
    log = Journal(store, Refusals(store))
    await log.note(schema.BrokerStop(reason="asked to end"))
    said = capsys.readouterr().err
    assert said == (
        "vitrail: cannot record the event broker.stop: the audit log cannot be written\n"
    )
    with pytest.raises(UpstreamError, match="cannot be written"):
        await log.require(schema.BrokerStop(reason="asked to end"))
    assert capsys.readouterr().err == "", "the task that required it says so"


async def test_a_refusal_that_cannot_be_recorded_is_still_a_refusal():
    store = DeadStore()
    log = Journal(store, Refusals(store))
    await log.refused(schema.StreamRefused(reason="no lease"))


async def test_equal_refusals_are_counted_and_required_events_are_not(tmp_path):
    async with journal(tmp_path) as log:
        for _ in range(limits.REFUSALS_LOGGED_PER_SECOND + 5):
            await log.refused(schema.StreamRefused(reason="no lease"))
        assert log._store.statistics().events == limits.REFUSALS_LOGGED_PER_SECOND
        for _ in range(3):
            await log.require(schema.BrokerStop(reason="asked to end"))
        assert log._store.statistics().events == limits.REFUSALS_LOGGED_PER_SECOND + 3


def test_what_an_event_says_of_a_lease_and_of_a_stream():
    lease = {"sandbox": "a", "lease": LEASE.id, "generation": 1}
    assert of(LEASE) == lease
    stream = of_stream(Opening(LEASE, DISPLAY, 7, "cid 42"))
    told = {"service": DISPLAY, "stream": 7, "peer": "cid 42", "link": ""}
    assert stream == {**lease, **told}
