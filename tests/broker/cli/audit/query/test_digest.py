"""What a report is made of: bounded, whatever the log holds."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.audit.query import digest
from broker.cli.audit.query.digest import COLUMNS, Digest
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Found

MINUTE = 60 * 10**9


def found(sequence: int, at: int, event: schema.AnyEvent, machine: str = "") -> Found:
    event = msgspec.structs.replace(event, sequence=sequence, time_ns=at)
    body = schema.encode(event).decode()
    return Found(sequence, at, event.kind, event.sandbox, body, machine)


def made(*events: tuple[int, schema.AnyEvent], end: int = 240) -> Digest:
    """Of events at these minutes of a timeline with a column each minute."""
    out = Digest(0, end * MINUTE - 1)
    for number, (minute, event) in enumerate(events, start=1):
        out.take(found(number, minute * MINUTE, event))
    out.finish()
    return out


def decision(verdict: str, **words: object) -> schema.Decision:
    return schema.Decision(
        **{"sandbox": "web", "service": "s", **words},
        verdict=schema.EventVerdict(verdict),
    )


def test_a_lane_knows_when_its_sandbox_was_there() -> None:
    lane = made(
        (10, schema.LeaseBegin(sandbox="web", lease="a")),
        (20, schema.LeaseEnd(sandbox="web", lease="a")),
        # Killed: its end is not recorded, and the next broker records it.
        (30, schema.LeaseBegin(sandbox="web", lease="b")),
        (40, schema.LeaseBegin(sandbox="web", lease="c")),
        # Still there.
    ).lanes["", "web"]
    alive = [n for n, one in enumerate(lane.alive) if one]
    assert alive == [*range(10, 21), *range(30, COLUMNS)]


def test_an_end_without_a_beginning_was_there_from_the_start() -> None:
    lane = made((5, schema.LeaseEnd(sandbox="web", lease="a"))).lanes["", "web"]
    assert [n for n, one in enumerate(lane.alive) if one] == [*range(6)]


def test_numbers() -> None:
    whole = made(
        (1, decision("allow", rule="f:1:1")),
        (2, decision("allow", rule="f:1:1")),
        (3, decision("deny")),
        (4, schema.StreamRefused(sandbox="web", count=41, reason="x")),
        (5, schema.StreamRefused(peer="cid 9", count=100)),
        (6, schema.StreamClosed(sandbox="web", bytes_from_sandbox=7,
                                bytes_to_sandbox=None, seconds=2.5)),
        (7, schema.ProcessDied(process=schema.Process.PUMP)),
        (8, schema.PolicyRefused(problems=["x"])),
    )  # fmt: skip
    assert whole.events == 8
    lane = whole.lanes["", "web"]
    assert (lane.allowed, lane.denied, lane.streams) == (2, 42, 1)
    assert (lane.sent, lane.got, lane.seconds) == (7, 0, 2.5)
    assert lane.bad[3:5] == [1, 41]
    assert [(s.rule, g.count) for s, g in whole.grants.items()] == [("f:1:1", 2)]
    denials = {(s.sandbox, s.rule, s.reason): g.count for s, g in whole.denials.items()}
    assert denials == {
        ("web", "default", ""): 1,
        ("web", "", "x"): 41,
        ("", "", "cid 9"): 100,
    }
    assert [f.kind for f in whole.troubles] == ["process.died", "policy.refused"]


def test_two_machines_may_have_a_sandbox_of_the_same_name() -> None:
    out = Digest(0, MINUTE)
    for machine in ("a", "b"):
        out.take(found(1, 0, decision("deny"), machine))
    assert set(out.lanes) == {("a", "web"), ("b", "web")}
    assert len(out.denials) == 2


def test_memory_is_bounded_and_omissions_are_counted() -> None:
    many = [(0, decision("deny", sandbox=f"s{n}")) for n in range(digest.SANDBOXES + 1)]
    whole = made(*many)
    assert len(whole.lanes) == digest.SANDBOXES
    assert whole.beyond == 1
    many = [(0, decision("deny", rule=f"f:{n}:1")) for n in range(digest.GROUPS + 1)]
    whole = made(*many)
    assert len(whole.denials) == digest.GROUPS
    assert whole.beyond == 1
    answers = [(0, schema.GrantEnded(grant=str(n))) for n in range(digest.LATEST + 1)]
    whole = made(*answers)
    assert len(whole.answers) == digest.LATEST
    assert whole.answers[-1].fields()["grant"] == str(digest.LATEST)


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20))
def test_any_time_has_a_column(times: list[int]) -> None:
    out = Digest(min(times), min(times))  # a clock that was set back, or is wild
    for number, at in enumerate(times, start=1):
        out.take(found(number, at, schema.LeaseBegin(sandbox="x", lease=str(number))))
    out.finish()
    assert sum(out.lanes["", "x"].any) == len(times)
