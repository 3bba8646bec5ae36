"""A disposable that gets the name of a record: `work` has some, `work-2024` is one.

A sandbox that may open things in disposables chooses the moment of each start, and
with it the number in the name, as the clock gives it.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.host import lease_requests
from broker.host.launches import Launches
from broker.host.lease_requests import Leasing, sandbox_name
from broker.host.part import HostPart
from policy.records.loader import load_records
from tests.kit.rulebook import rulebook
from tests.kit.world import record

NAME = SandboxName("work-2024")
STARTED = Lease(LeaseId("0" * 16), NAME, SandboxName("work"), 1)


@pytest.fixture
def records(tmp_path, monkeypatch):
    """``work`` and ``work-2024``, at the moment of the number 2024."""
    monkeypatch.setattr(lease_requests.time, "time_ns", lambda: 1024 * 1_000_000)
    (tmp_path / "work.toml").write_text(record("disposable"))
    (tmp_path / "work-2024.toml").write_text(record("persistent"))
    return load_records([tmp_path])


def test_no_disposable_is_started_under_the_name_of_a_record(records):
    work = records.records["work"]
    assert sandbox_name(work, frozenset(), records) == "work-2025"


def test_nor_under_that_of_a_record_with_a_mistake(tmp_path, records):
    (tmp_path / "work-2024.toml").write_text("class = 1")
    broken = load_records([tmp_path])
    assert "work-2024" in broken.broken
    assert sandbox_name(broken.records["work"], frozenset(), broken) == "work-2025"


def test_each_way_to_a_name_asks_the_records(records):
    work = records.records["work"]
    host = SimpleNamespace(active_leases=list)
    ground = SimpleNamespace(records=SimpleNamespace(now=records))
    part = SimpleNamespace(_record=records.records.get, _ground=ground)
    assert HostPart._name_for(part, SandboxName("work"), frozenset()) == "work-2025"
    leasing = SimpleNamespace(_host=host, _records=lambda: records)
    request = SimpleNamespace(sandbox=None)
    assert Leasing._name(leasing, work, request) == "work-2025"
    launches = SimpleNamespace(host=host, records=lambda: records, _pending={})
    assert Launches._name(launches, work, None) == "work-2025"


async def test_rules_about_a_record_are_not_about_another_ones_disposable():
    """As where the record is new, or the name is a host's that has not got it."""
    async with rulebook() as book:
        book.write_record("work", record("disposable"))
        book.write_record("work-2024", record("persistent"))
        book.leases.append(STARTED)
        await book.change("a.policy", "t.Ask * work-2024 vault allow\n")
        with pytest.raises(RefusedError, match="work-2024"):
            await book.once(lease=STARTED, target="vault")
        book.write_record("work-2024", "class = 1")
        await book.reload()
        with pytest.raises(RefusedError, match="work-2024"):
            await book.once(lease=STARTED, target="vault")
