"""The table of leases: each invariant of broker.net.peers.leases has its breaker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.names import SandboxName
from broker.net.peers.identity import (
    Connector,
    ContainerClaim,
    GroupClaim,
    HybridClaim,
    VsockClaim,
)
from broker.net.peers.leases import LeaseTable


def hybrid(path="/run/a/vm.vsock", pid=10):
    return HybridClaim(path, frozenset({Connector(pid, 1000 + pid)}))


def begin(table, name, claim, now=0.0):
    return table.begin(
        sandbox=SandboxName(name), record=SandboxName("work"), claim=claim, now=now
    )


def test_a_lease_names_sandbox_record_and_generation():
    table = LeaseTable()
    lease = begin(table, "work-1", hybrid())
    assert (lease.sandbox, lease.record, lease.generation) == ("work-1", "work", 1)
    assert table.get(lease.id).lease is lease
    assert table.of_sandbox(SandboxName("work-1")).lease is lease


def test_generation_counts_the_launches_of_a_sandbox():
    table = LeaseTable()
    for expected in (1, 2, 3):
        lease = begin(table, "work", hybrid())
        assert lease.generation == expected
        table.end(lease.id, 0.0)


def test_one_identity_has_one_lease():
    table = LeaseTable()
    begin(table, "a", hybrid())
    with pytest.raises(RefusedError, match="leased to sandbox a"):
        begin(table, "b", hybrid(pid=11))


@pytest.mark.parametrize(
    ("claim", "same", "other"),
    [
        (ContainerClaim, (7,), (8,)),
        (
            GroupClaim,
            ("/machine.slice/a.service", 10),
            ("/machine.slice/b.service", 10),
        ),
    ],
)
def test_containers_that_the_kernel_does_not_tell_apart_are_one_sandbox(
    claim, same, other
):
    table = LeaseTable()
    first = begin(table, "a", claim("/run/a", *same))
    with pytest.raises(RefusedError, match="distinguished from those of sandbox a"):
        begin(table, "b", claim("/run/b", *same))
    begin(table, "c", claim("/run/c", *other))
    table.end(first.id, 0.0)
    begin(table, "b", claim("/run/b", *same))


def test_one_sandbox_has_one_lease():
    table = LeaseTable()
    begin(table, "a", hybrid())
    with pytest.raises(RefusedError, match="already has a lease"):
        begin(table, "a", hybrid("/run/other/vm.vsock"))


@pytest.mark.parametrize(
    ("wait", "accepted"),
    [
        (0.0, False),
        (limits.CID_QUARANTINE_SECONDS - 0.001, False),
        (limits.CID_QUARANTINE_SECONDS, True),
    ],
)
def test_a_cid_is_not_accepted_again_while_in_quarantine(wait, accepted):
    table = LeaseTable()
    claim = VsockClaim(netns=1, cid=42)
    table.end(begin(table, "a", claim, now=100.0).id, now=200.0)
    assert (42 in table.closed_cids(200.0 + wait)) is not accepted
    if accepted:
        begin(table, "b", claim, now=200.0 + wait)
    else:
        with pytest.raises(RefusedError, match="is reserved"):
            begin(table, "b", claim, now=200.0 + wait)


def test_a_lease_that_was_never_taken_closes_no_cid():
    """No viewer knew it, so nothing of it can be inherited."""
    table = LeaseTable()
    claim = VsockClaim(netns=1, cid=42)
    table.end(begin(table, "a", claim, now=100.0).id, now=200.0, taken=False)
    assert not table.closed_cids(200.0)
    table.end(begin(table, "a", claim, now=200.0).id, now=201.0)
    assert 42 in table.closed_cids(201.0)


def test_the_same_cid_in_another_network_namespace_is_another_peer():
    table = LeaseTable()
    table.end(begin(table, "a", VsockClaim(1, 42)).id, now=0.0)
    assert begin(table, "b", VsockClaim(2, 42)).sandbox == "b"


def test_a_hybrid_path_is_free_at_once_because_its_directory_was_removed():
    table = LeaseTable()
    table.end(begin(table, "a", hybrid()).id, now=0.0)
    assert begin(table, "b", hybrid()).sandbox == "b"


def test_the_number_of_leases_is_bounded_at_n_and_not_before():
    table = LeaseTable()
    for n in range(limits.LEASES):
        begin(table, f"s{n}", hybrid(f"/run/{n}"))
    with pytest.raises(RefusedError, match="cannot begin another lease"):
        begin(table, "one-more", hybrid("/run/x"))


def test_ending_twice_is_harmless_and_says_so():
    table = LeaseTable()
    lease = begin(table, "a", hybrid())
    assert table.end(lease.id, 0.0).lease is lease
    assert table.end(lease.id, 0.0) is None
    assert table.live() == []


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 4), st.integers(3, 6)), max_size=60
    )
)
def test_no_history_gives_two_live_leases_one_identity_or_one_id_twice(steps):
    """Whatever begins and ends in whatever order, the invariants hold."""
    table = LeaseTable()
    seen_ids = set()
    now = 0.0
    for begins, sandbox, cid in steps:
        now += 7.0
        held = table.of_sandbox(SandboxName(f"s{sandbox}"))
        if begins:
            try:
                lease = begin(table, f"s{sandbox}", VsockClaim(1, cid), now)
            except RefusedError:
                continue
            assert lease.id not in seen_ids
            seen_ids.add(lease.id)
        elif held is not None:
            table.end(held.lease.id, now)
        live = table.live()
        assert len({h.claim.cid for h in live}) == len(live)
        assert len({h.lease.sandbox for h in live}) == len(live)
