"""Invariant 8 when the log cannot be written: what takes away needs no log."""

from __future__ import annotations

import pytest
import trio

from broker.core.errors import RefusedError, UpstreamError
from tests.kit.rulebook import rulebook
from tests.kit.world import record

ALLOW = "a * * @adminvm allow\n"
DENY = "a * * @adminvm deny\n"


def full(monkeypatch, b):
    """From now on no event can be recorded."""

    async def require(_event):
        raise UpstreamError("the audit log cannot be written")

    monkeypatch.setattr(b.log, "require", require)


async def live(b, cut, *, task_status):
    """A stream that is permitted until it is cut."""
    with pytest.raises(RefusedError, match="denied now"):  # noqa: PT012
        async with b.decider.permit(b.request("a")):
            task_status.started()
            await trio.sleep_forever()
    cut.set()


async def _reload(b):
    """As the broker does it: all streams are cut, whatever is raised."""
    try:
        await b.reload()
    except UpstreamError:
        await b.decider.decide_again()


async def test_a_deny_cuts_although_nothing_can_be_recorded(monkeypatch):
    async with rulebook(ALLOW) as b, trio.open_nursery() as nursery:
        cut = trio.Event()
        await nursery.start(live, b, cut)
        full(monkeypatch, b)
        b.write("05-new.policy", DENY)
        await _reload(b)
        with trio.fail_after(60):
            await cut.wait()


async def test_a_revoked_grant_stays_revoked_until_the_log_has_it(monkeypatch):
    """In a log that refuses nothing for want of itself, either."""
    async with rulebook(ALLOW) as b:
        with monkeypatch.context() as patch:
            full(patch, b)
            b.write("05-new.policy", DENY)
            await _reload(b)
        with pytest.raises(RefusedError, match="05-new"):
            async with b.decider.permit(b.request("a")):
                pass
        await b.reload()
        assert b.rules.pending is None, "the log has it"


async def test_what_gives_waits_for_the_log(monkeypatch):
    async with rulebook(DENY) as b:
        with monkeypatch.context() as patch:
            full(patch, b)
            b.write("05-new.policy", ALLOW)
            await _reload(b)
        with pytest.raises(RefusedError):
            async with b.decider.permit(b.request("a")):
                pass
        await b.reload()
        async with b.decider.permit(b.request("a")):
            pass


async def test_a_revocation_does_not_wait_for_a_slow_log(monkeypatch):
    async with rulebook(ALLOW) as b, trio.open_nursery() as nursery:
        cut, written = trio.Event(), trio.Event()
        await nursery.start(live, b, cut)

        async def require(_event):
            await written.wait()

        monkeypatch.setattr(b.log, "require", require)
        b.write("05-new.policy", DENY)
        nursery.start_soon(b.reload)
        with trio.fail_after(60):
            await cut.wait()
        written.set()


async def test_a_record_that_denies_cuts_although_nothing_can_be_recorded(
    monkeypatch,
):
    """The record as it is in the files takes away before it is in force."""
    async with rulebook("vitrail.Display * * @adminvm allow\n") as b:
        good = b.records
        b.write_record("work", record("persistent", display="none"))
        b.read_records()
        b.pending_records, b.records = b.records, good
        with pytest.raises(RefusedError, match="display"):
            async with b.decider.permit(b.request("vitrail.Display")):
                pass
