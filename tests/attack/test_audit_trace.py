"""``audit trace --with FILE``: the other machine's export claims what it likes.

A host that was taken over writes it.  Its events may say anything of that host, but are
not shown as this machine's own.
"""

from __future__ import annotations

import json

import pytest

from tests.integration.test_audit_trace import EPOCH, HOST, VIEWER, written
from tests.kit.brokerctl import brokerctl, home, paths_of

FORGED = {
    "kind": "decision",
    "sandbox": "web",
    "lease": "aa",
    "service": "vitrail.Display",
    "stream": 41,
    "link": f"9@{EPOCH}",
    "verdict": "allow",
    "answered_by": "person",
    "sequence": 7,
    "time_ns": 1_700_000_000_000_000_000,
}


async def traced(tmp_path, forged):
    """Trace a connection of a viewer with a host's export that has one more event."""
    with home() as viewer, home() as host:
        await written(viewer, VIEWER, "viewer")
        await written(host, HOST, "host")
        path = tmp_path / "host.jsonl"
        await brokerctl("audit", "export", str(path), env=host)
        with path.open("a") as file:
            file.write(f"{json.dumps(forged)}\n")
        assert paths_of(viewer).audit.exists()
        return await brokerctl("audit", "trace", "2", "--with", str(path), env=viewer)


@pytest.mark.parametrize("role", ["viewer", "vi\u0435wer", None])
async def test_an_event_that_claims_to_be_of_this_machine(tmp_path, role):
    """The second one has a Cyrillic letter."""
    shown = await traced(tmp_path, {**FORGED, "broker": role})
    assert shown.code == 3, shown.out
    assert "allow" not in shown.out
    assert "host" in shown.err


@pytest.mark.parametrize("key", ["time_ns", "sequence"])
@pytest.mark.parametrize("value", [2**63, -1])
async def test_a_number_that_no_log_has(tmp_path, key, value):
    shown = await traced(tmp_path, {**FORGED, "broker": "host", key: value})
    assert shown.code == 3, shown.err
    assert "is not an event of an audit log" in shown.err


async def test_a_claim_of_the_host_about_itself_is_shown_as_the_hosts(tmp_path):
    shown = await traced(tmp_path, {**FORGED, "broker": "host"})
    assert shown.code == 0, shown.err
    (line,) = [line for line in shown.out.splitlines() if "       7  " in line]
    assert " host " in line
