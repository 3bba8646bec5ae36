"""The status page: rates, one sandbox's part, and text that is only text."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from broker import __version__
from broker.cli.quick import status as quick_status
from broker.cli.sandboxes.status_detail import as_object, as_text, only, rates_between
from broker.ipc.control.api import (
    AuditStatus,
    LeaseStatus,
    PolicyStatus,
    ProcessStatus,
    ProgramStatus,
    PumpStatus,
    SandboxStatus,
    Status,
    StreamStatus,
)
from broker.wire.faults import NotFoundError

NOW = 1_790_000_100.0


def summary(state: Status, now: float) -> str:
    return quick_status.summary(msgspec.to_builtins(state), now)


def stream(number: int, out: int, back: int, sandbox: str = "web") -> StreamStatus:
    return StreamStatus(
        stream=number,
        sandbox=sandbox,
        lease="00112233aabbccdd",
        service="vitrail.Display",
        bytes_from_sandbox=out,
        bytes_to_sandbox=back,
        since=NOW - 5,
        mode="splice",
    )


def test_a_broker_of_another_version_is_named() -> None:
    """After an update, until the old broker has ended."""
    assert "brokerctl has version" not in summary(status(), NOW)
    old = msgspec.structs.replace(status(), version="0.0.9")
    (line, *_) = summary(old, NOW).splitlines()
    assert (
        f"the running broker has version 0.0.9, but brokerctl has version {__version__}"
        in line
    )


def status(*streams: StreamStatus, monotonic: float = 10.0) -> Status:
    return Status(
        version=__version__,
        role="local",
        pid=12,
        since=NOW - 60,
        monotonic=monotonic,
        policy=PolicyStatus(digest="abcdef" * 8),
        sandboxes=[
            SandboxStatus(
                name=name,
                record="web",
                sandbox_class="disposable",
                label="web",
                color="red",
                state="running",
                pid=34,
                cid=56,
                since=NOW - 30,
                accel="tcg",
                image="default",
                image_age=5 * 86400.0,
                programs=[ProgramStatus(program=1, name="foot", since=NOW)],
            )
            for name in ("web", "mail")
        ],
        leases=[
            LeaseStatus(
                id="00112233aabbccdd",
                sandbox="web",
                record="web",
                generation=2,
                peer="hybrid:/x",
                pid=34,
                since=NOW - 30,
                pending=True,
            )
        ],
        streams=list(streams),
        processes=[
            ProcessStatus(role="worker", pid=7, sandbox="web", memory=9 << 20),
            ProcessStatus(role="pump", pid=8, jail="seccomp"),
        ],
        pump=PumpStatus(pid=8, streams=1, streams_total=4, bytes_total=5000),
        audit=AuditStatus(events=9, commits=3, failures=0, waiting=0),
    )


def text(state: Status, rates=None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False)
    console.print(as_text(state, rates or {}, NOW))
    return out.getvalue()


def test_rates_are_differences_of_streams_that_were_there_before() -> None:
    before = status(stream(1, 1000, 0), stream(2, 5, 5), monotonic=10.0)
    after = status(stream(1, 3000, 500), stream(3, 9, 9), monotonic=12.0)
    assert rates_between(before, after) == {1: (1000.0, 250.0)}
    assert rates_between(before, before) == {}
    streams = as_object(after, rates_between(before, after))["streams"]
    assert [s["rate_from_sandbox"] for s in streams] == [1000.0, 0.0]  # type: ignore[attr-defined]


def test_the_page_names_everything() -> None:
    page = text(status(stream(1, 2048, 5)), {1: (1024.0, 0.0)})
    for words in [
        f"Vitrail {__version__} (local), pid 12, up 60.0 s, 9 events recorded",
        "policy abcdefabcdef is in force",
        "running (tcg)",
        "default (5 days old)",
        "1:foot",
        "hybrid:/x (pending)",
        "1.0 KiB/s",
        "9.0 MiB",
        "pump: pid 8, 1 streams now, 4 in total, 4.9 KiB transferred",
    ]:
        assert words in page


def test_one_sandbox_only() -> None:
    part = only(status(stream(1, 0, 0), stream(2, 0, 0, "mail")), "mail")
    assert [s.name for s in part.sandboxes] == ["mail"]
    assert [s.stream for s in part.streams] == [2]
    assert part.leases == part.processes == []
    with pytest.raises(NotFoundError, match="no sandbox") as caught:
        only(status(), "gone")
    assert "web, mail" in caught.value.hint


def test_what_a_person_must_not_miss() -> None:
    bad = msgspec.structs.replace(
        status(),
        policy=PolicyStatus(problems=["web.toml:1:2: no such key"]),
        audit=AuditStatus(events=0, commits=0, failures=3, waiting=0),
        warnings=["workers run without namespaces"],
        sandboxes=[],
    )
    page = text(bad)
    assert "everything is denied" in page
    assert "web.toml:1:2" in page
    assert "3 writes to the audit log failed" in page
    assert "warning: workers run without namespaces" in page
    assert "no sandboxes are running" in page


def test_markup_and_escapes_stay_text() -> None:
    evil = msgspec.structs.replace(
        status().sandboxes[0], label="[red]x[/red]\x1b[2J", state="\u202erunning"
    )
    page = text(msgspec.structs.replace(status(), sandboxes=[evil]))
    assert "[red]x[/red]\\x1b[2J" in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_short_form_is_one_table():
    text = summary(status(), NOW)
    head, *rows = text.splitlines()
    assert head.split() == ["NAME", "LABEL", "PROGRAM", "UP", "MEMORY", "WINDOWS"]
    assert [row.split()[0] for row in rows] == [s.name for s in status().sandboxes]
    assert "30.0 s" in rows[0]


def test_the_short_form_begins_with_the_problems():
    broken = msgspec.structs.replace(
        status(), policy=PolicyStatus(digest=""), warnings=["a\x1b[31mb"], sandboxes=[]
    )
    assert summary(broken, NOW) == (
        "no policy is in force, so everything is denied\n"
        "warning: a\\x1b[31mb\n"
        "no sandboxes are running\n"
    )


def test_devices_of_a_sandbox_are_shown_escaped() -> None:
    state = status()
    sandbox = msgspec.structs.replace(
        state.sandboxes[0], devices=["2-1  0951:1666  \x1b[2JStick (storage)"]
    )
    page = text(msgspec.structs.replace(state, sandboxes=[sandbox]))
    assert "0951:1666" in page
    assert "\\x1b[2JStick (storage)" in page
    assert "\x1b[2J" not in page
