"""``audit trace``: one connection over the logs of two machines."""

from __future__ import annotations

import json

import pytest

from broker.authority.audit.store import open_store
from broker.ipc.audit.schema import (
    Decision,
    EventVerdict,
    StreamClosed,
    StreamOpened,
    StreamRefused,
)
from tests.kit.brokerctl import brokerctl, home, paths_of

LEASE = {"sandbox": "web", "lease": "aa", "service": "vitrail.Display"}
EPOCH = "0f3a" * 8
END = {"bytes_from_sandbox": 20, "bytes_to_sandbox": 7, "seconds": 1.5}
VIEWER = [
    Decision(**LEASE, stream=2, verdict=EventVerdict.ALLOW, rule="30-user.policy:7"),
    StreamOpened(**LEASE, stream=2, link=f"9@{EPOCH}", mode="worker"),
    StreamOpened(**LEASE, stream=3, link=f"10@{EPOCH}", mode="worker"),
    StreamClosed(**LEASE, stream=2, link=f"9@{EPOCH}", **END, reason="it left"),
]
HOST = [
    StreamOpened(**LEASE, stream=41, link=f"9@{EPOCH}", mode="link"),
    # Another epoch, and another stream with the viewer's own number.
    StreamRefused(**LEASE, stream=2, link=f"9@{'77' * 16}", reason="another epoch"),
    StreamClosed(**LEASE, stream=41, link=f"9@{EPOCH}", **END, reason="end"),
]


async def written(env, events, role):
    async with open_store(paths_of(env).audit, broker=role) as store:
        for event in events:
            await store.record(event)


@pytest.fixture
async def logs(tmp_path):
    """The viewer's environment, and the host's export."""
    with home() as viewer, home() as host:
        await written(viewer, VIEWER, "viewer")
        await written(host, HOST, "host")
        path = tmp_path / "host.jsonl"
        assert (await brokerctl("audit", "export", str(path), env=host)).code == 0
        yield viewer, path


@pytest.mark.parametrize("named", ["2", "#2", f"9@{EPOCH}", "9@0f3a"])
async def test_both_machines_events_of_one_connection(logs, named):
    viewer, path = logs
    shown = await brokerctl(
        *("audit", "trace", named, "--with", str(path), "--json", "--utc"), env=viewer
    )
    assert shown.code == 0, shown.err
    events = [json.loads(line) for line in shown.out.splitlines()]
    assert sorted((e["broker"], e["kind"], e["stream"]) for e in events) == [
        ("host", "stream.closed", 41),
        ("host", "stream.opened", 41),
        ("viewer", "decision", 2),
        ("viewer", "stream.closed", 2),
        ("viewer", "stream.opened", 2),
    ]
    people = await brokerctl("audit", "trace", named, "--with", str(path), env=viewer)
    assert " host " in people.out
    assert " viewer " in people.out
    assert "other machine" not in people.err


async def test_without_the_other_log_it_is_named(logs):
    viewer, _ = logs
    shown = await brokerctl("audit", "trace", "2", env=viewer)
    assert shown.out.count("\n") == 3
    assert f"events of 9@{EPOCH}: not shown" in shown.err
    assert "brokerctl audit export --lease aa" in shown.err


async def test_what_is_no_stream_and_no_export_is_said(logs, tmp_path):
    viewer, _ = logs
    assert (await brokerctl("audit", "trace", "99", env=viewer)).code == 1
    wrong = await brokerctl("audit", "trace", "9@xyz", env=viewer)
    assert wrong.code == 2
    assert "is not a stream" in wrong.err
    for text in ("no json\n", "{}\n", '{"sequence": "1", "time_ns": 1, "kind": "x"}\n'):
        bad = tmp_path / "bad"
        bad.write_text(text)
        shown = await brokerctl("audit", "trace", "2", "--with", str(bad), env=viewer)
        assert shown.code == 3, shown.err
