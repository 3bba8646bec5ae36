"""How events read, and that a sandbox cannot write to the terminal with one."""

from __future__ import annotations

import io
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from broker.cli.audit.events import as_line, as_object
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Found
from broker.ipc.audit.schema import (
    AnyEvent,
    Decision,
    EventVerdict,
    Process,
    ProcessDied,
    ProgramExited,
    StreamClosed,
    StreamRefused,
    TransferEnd,
)
from tests.kit.brokerctl import harmless


def found(event: AnyEvent) -> Found:
    event = msgspec.structs.replace(
        event, sequence=1, time_ns=1_790_000_000_123_456_789
    )
    body = schema.encode(event).decode()
    return Found(1, event.time_ns, event.kind, event.sandbox, body)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (
            Decision(
                sandbox="web",
                service="vitrail.Display",
                stream=3,
                verdict=EventVerdict.DENY,
                rule="web.toml:4:1",
                reason="display is false",
            ),
            "decision         vitrail.Display #3: deny: display is false  (web.toml:4:1)",
        ),
        (
            Decision(
                sandbox="web",
                service="vitrail.OpenURL",
                target="dom0",
                verdict=EventVerdict.ALLOW,
                rule="30-mine.policy:1",
            ),
            "vitrail.OpenURL to you: allow",
        ),
        (
            TransferEnd(
                sandbox="web",
                service="vitrail.FileCopy",
                transfer=1,
                target="@adminvm",
                bytes=7,
                seconds=0.5,
                opened_in="dom0",
            ),
            "target=you bytes=7 seconds=0.5 opened_in=you",
        ),
        (
            Decision(
                sandbox="web",
                service="vitrail.AudioInput",
                verdict=EventVerdict.ALLOW,
                rule="30-mine.policy:1",
                detail={"record": "web.toml:9:1"},
            ),
            "vitrail.AudioInput: allow  (web.toml:9:1, 30-mine.policy:1)",
        ),
        (
            Decision(
                sandbox="web",
                service="vitrail.Display",
                verdict=EventVerdict.ALLOW,
                rule="web.toml:9:1",
                detail={"record": "web.toml:9:1"},
            ),
            "vitrail.Display: allow  (web.toml:9:1)",
        ),
        (
            StreamClosed(
                sandbox="web",
                service="vitrail.Display",
                stream=3,
                bytes_from_sandbox=1536,
                bytes_to_sandbox=5,
                seconds=2.0,
                reason="end",
            ),
            "vitrail.Display #3 1.5 KiB out, 5 B in, 2.0 s: end",
        ),
        (
            StreamRefused(peer="cid 9", reason="no lease", count=99),
            "-               stream.refused   from cid 9: no lease  99 times",
        ),
        (
            ProcessDied(process=Process.PUMP, pid=7, code=-9),
            "pump (pid 7) died by signal 9",
        ),
        (ProgramExited(sandbox="a", program=2, code=1), "#2 ended with code 1"),
    ],
)
def test_lines(event: AnyEvent, says: str) -> None:
    assert says in as_line(found(event)).plain


def test_an_event_of_a_later_version_is_shown_by_its_fields() -> None:
    later = Found(1, 0, "moon.landed", "web", '{"kind":"moon.landed","feet":2}')
    assert "moon.landed      feet=2" in as_line(later).plain


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("answered_by", "person"),
        ("granted_by", "person"),
        ("target", "dom0"),
        ("source", "@adminvm"),
    ],
)
def test_the_user_has_one_name(field: str, value: str) -> None:
    """As in questions, answers of rules and the graph."""
    body = json.dumps({"kind": "moon.landed", field: value})
    assert f"{field}=you" in as_line(Found(1, 0, "moon.landed", "web", body)).plain


def test_programs_get_every_field_and_a_readable_time() -> None:
    assert as_object(found(ProgramExited(sandbox="a", program=2, code=0))) == {
        "time": "2026-09-21T14:13:20.123456789Z",
        "time_ns": 1_790_000_000_123_456_789,
        "sequence": 1,
        "kind": "program.exited",
        "sandbox": "a",
        "program": 2,
        "code": 0,
    }


_hostile = st.text(max_size=20) | st.sampled_from(
    ["\x1b]0;owned\x07", "\x9b2J", "a\nb", "\u202egnp", "[bold red]", "\\x1b", "\0"]
)


@given(_hostile, _hostile, _hostile)
def test_no_text_of_a_sandbox_drives_the_terminal(a: str, b: str, c: str) -> None:
    events = [
        StreamRefused(peer=a, reason=b, service=c),
        Decision(verdict=EventVerdict.DENY, rule=a, reason=b, sandbox=c),
        schema.PolicyRefused(problems=[a, b], policy=c),
        schema.ProgramStarted(program=1, name=a, reason=b),
        schema.WindowHopFailed(hop=a, reason=b, outcome=c),
        schema.SandboxFailed(step=a, sandbox=b),
        schema.LeaseBegin(lease=a, peer=b, record=c),
    ]
    for event in events:
        out = io.StringIO()
        line = as_line(found(event))
        Console(file=out, highlight=False, soft_wrap=True).print(line)
        text = out.getvalue()
        assert text.endswith("\n")
        assert harmless(text[:-1]), repr(text)


@given(st.dictionaries(st.sampled_from(["pid", "code", "count", "problems", "seconds",
    "bytes_from_sandbox", "rule", "stream", "generation", "detail", "reason"]),
    st.none() | st.booleans() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
    | st.integers(-(2**40), 2**40)), st.sampled_from(schema.KINDS))  # fmt: skip
def test_fields_of_unexpected_types_are_shown_somehow(
    fields: dict[str, object], kind: str
) -> None:
    body = msgspec.json.encode({"kind": kind, **fields}).decode()
    assert as_line(Found(1, 1, kind, "x", body)).plain


def test_a_rule_that_the_reason_names_is_not_repeated_and_numbers_are_short():
    rule = "/etc/vitrail/policy.d/30.policy:4"
    event = Decision(
        sandbox="web",
        service="vitrail.Display",
        verdict=EventVerdict.ALLOW,
        rule=rule,
        reason=f"allowed by {rule}",
    )
    assert as_line(found(event)).plain.count(rule) == 1
    body = json.dumps({"kind": "x.y", "seconds": 6.648382465005852, "files": 1})
    line = as_line(Found(1, 1_790_000_000_123_456_789, "x.y", "web", body)).plain
    assert "seconds=6.6 files=1" in line
