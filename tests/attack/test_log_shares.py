"""A share of the log is a record's: disposables have no fresh one, links no way past it."""

from __future__ import annotations

import pytest
import trio

from broker.authority.audit.journal import Journal
from broker.authority.audit.refusals import Counter, Refusals
from broker.authority.audit.shares import Owners, cost
from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.limits import audit as audit_limits
from broker.core.names import LeaseId, SandboxName
from broker.core.services import FILE_COPY, OPEN_FILE, OPEN_URL
from broker.ipc.audit import schema
from tests.attack.test_budgets import refusal
from tests.broker.viewer.test_role import viewer
from tests.kit.link.roles import LEASE, journal
from tests.kit.rulebook import rulebook

DISPOSABLES = 100


def disposable(number: int) -> Lease:
    """One of many sandboxes of one record, one after the other."""
    return Lease(
        LeaseId(f"{number:016x}"), SandboxName(f"web-{number}"), SandboxName("web"), 1
    )


class Paper:
    """A store that counts written bytes, by their payer."""

    def __init__(self) -> None:
        self.written = 0

    async def record(self, event: schema.Event) -> int:
        await trio.lowlevel.checkpoint()
        self.written += cost(event)
        return 1


async def test_disposables_one_after_the_other_have_one_share(
    autojump_clock: trio.abc.Clock,
) -> None:
    """It was 16 MiB for each of the first eight, and then 1 MiB for each: 2 hours."""
    store = Paper()
    log = Journal(store, Refusals(store))
    for number in range(DISPOSABLES):
        lease = disposable(number)
        event = schema.StreamOpened(sandbox=lease.sandbox, peer="x" * 20_000)
        for _ in range(1000):
            try:
                log.check_share(lease)
            except RefusedError:
                break
            await log.require(event)
    assert store.written < audit_limits.AUDIT_SHARE_BYTES + (1 << 20)


def test_refusals_of_disposables_have_one_budget() -> None:
    owners = Owners()
    counter = Counter(owners)
    events: list[schema.Event] = []
    for number in range(DISPOSABLES):
        lease = disposable(number)
        owners.learn(lease)
        for kind in range(20):
            events += counter.take(refusal(lease.sandbox, f"{number}.{kind}"), 1.0)
    events += counter.flush()
    assert sum(event.count for event in events) == 20 * DISPOSABLES
    assert len(events) <= 2 * audit_limits.AUDIT_REFUSAL_KEYS_PER_SANDBOX


async def test_calls_of_disposables_have_one_rate() -> None:
    async with rulebook("t.Ask * @anyvm @adminvm allow rate=3/h\n") as b:
        b.write_record("web", 'class = "disposable"\n')
        await b.reload()
        b.leases = leases = [disposable(number) for number in range(9)]
        for lease in leases[:3]:
            await b.once(lease=lease)
        with pytest.raises(RefusedError, match="more than 3 calls"):
            await b.once(lease=leases[3])


async def test_an_event_is_charged_as_it_is_written(tmp_path) -> None:
    """The store adds its number, times and names: 300 bytes were for nothing."""
    async with journal(tmp_path) as log:
        event = schema.StreamOpened(sandbox="work", peer="cid 42")
        written = len(schema.encode(log._store._stamped(event).event))
        before = written + 20  # the number
        assert cost(event) >= 2 * before


@pytest.mark.parametrize("service", [OPEN_URL, OPEN_FILE, FILE_COPY])
async def test_a_used_up_share_refuses_links_and_files_too(service) -> None:
    """Each connection wrote two events before anything was decided."""
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)
        used = 2 * audit_limits.AUDIT_SHARE_BYTES
        s.log._shares.charge(LEASE.record, used, trio.current_time())
        with pytest.raises(RefusedError, match="share of the audit log"):
            await s.offer(streams, service)
        assert s.events("stream.opened", "stream.closed") == []


def test_names_of_records_are_remembered_for_a_bounded_number() -> None:
    owners = Owners()
    for number in range(4 * limits.LEASES):
        owners.learn(disposable(number))
    assert len(owners) <= 2 * limits.LEASES
    assert owners.of(disposable(4 * limits.LEASES - 1).sandbox) == "web"
    assert owners.of("another") == "another"
