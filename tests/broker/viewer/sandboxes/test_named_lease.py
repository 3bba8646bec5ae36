"""A sandbox is named by its name or by its record's."""

from __future__ import annotations

import pytest

from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.viewer.sandboxes.named_lease import one_lease
from broker.wire.faults import NotFoundError

LEASES = [
    Lease(LeaseId("1" * 16), SandboxName("demo-1234"), SandboxName("demo"), 1),
    Lease(LeaseId("2" * 16), SandboxName("web-1"), SandboxName("web"), 1),
    Lease(LeaseId("3" * 16), SandboxName("web-2"), SandboxName("web"), 1),
]


@pytest.mark.parametrize(
    ("name", "sandbox"),
    [("demo", "demo-1234"), ("demo-1234", "demo-1234"), ("web-2", "web-2")],
)
def test_a_name_of_its_own_or_of_its_record(name, sandbox):
    assert one_lease(name, LEASES).sandbox == sandbox


def test_a_record_with_several_sandboxes_names_none():
    with pytest.raises(
        NotFoundError, match="2 sandboxes of 'web' are running"
    ) as caught:
        one_lease("web", LEASES)
    assert caught.value.hint == "name one of them: web-1, web-2"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dmo", "did you mean 'demo'?"),
        ("zzz", "to list the running sandboxes, run 'brokerctl status'"),
    ],
)
def test_an_unknown_name(name, hint):
    with pytest.raises(
        NotFoundError, match=f"no sandbox '{name}' is running"
    ) as caught:
        one_lease(name, LEASES)
    assert caught.value.hint == hint


def test_a_name_cannot_write_to_the_terminal():
    with pytest.raises(NotFoundError) as caught:
        one_lease("\x1b[2J", LEASES)
    assert "\x1b" not in caught.value.message
