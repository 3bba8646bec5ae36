"""However a question is planned, the answer is that of looking at every event."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from broker.authority.audit.store import open_store
from broker.ipc.audit import plan
from broker.ipc.audit.counts import _by_index, _in_one_pass
from broker.ipc.audit.filters import NAMED, Filters, Found
from broker.ipc.audit.query import Log, open_log
from tests.kit.audit.shipping import record

COUNT = 700


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of three boots whose clock was set back in between."""
    where = tmp_path_factory.mktemp("log") / "audit.sqlite"

    async def fill() -> None:
        async with open_store(where) as store:
            await record(store, 1, COUNT)

    trio.run(fill)
    with sqlite3.connect(where) as db:
        # Tests of other files know that this would be noticed.
        db.execute("UPDATE event SET time_ns = sequence * 1000")
        db.execute("UPDATE event SET time_ns = time_ns - 200000 WHERE sequence > 300")
        for first, boot in ((1, "a"), (200, "b"), (500, "c")):
            db.execute(
                "UPDATE event SET body = json_set(body, '$.boot', ?) WHERE sequence >= ?",
                [boot * 32, first],
            )
            db.execute(
                "UPDATE event SET kind = 'broker.start', verdict = '', "
                "body = json_set(body, '$.kind', 'broker.start') WHERE sequence = ?",
                [first],
            )
    db.close()
    return where


def matches(found: Found, filters: Filters) -> bool:
    fields = {k: str(v) for k, v in found.fields().items()}
    if found.kind == "broker.start":
        fields["verdict"] = ""
    for name, wanted in filters.named().items():
        value = fields.get(name, "")
        if name == "rule":
            short = value.rpartition("/")[2]
            tests = [value, short, short.rpartition(":")[0], short.partition(":")[0]]
            if value == "" or not set(tests) & set(wanted):
                return False
        elif name == "service":
            if value == "" or not {value, value.removeprefix("vitrail.")} & set(wanted):
                return False
        elif value == "" or not any(fnmatchcase(value, one) for one in wanted):
            return False
    if filters.kinds and not {found.kind, found.kind.split(".")[0]} & {*filters.kinds}:
        return False
    low, high = filters.since_ns, filters.until_ns
    if (low is not None and found.time_ns < low) or (
        high is not None and found.time_ns > high
    ):
        return False
    return not filters.boot or fields["boot"] == filters.boot


some = st.lists
FILTERS = st.builds(
    Filters,
    sandboxes=some(st.sampled_from(["web", "mail", "w*", "[wm]*", "none"]), max_size=2),
    kinds=some(st.sampled_from(["stream", "decision", "stream.closed", "x"]), max_size=2),
    leases=some(st.sampled_from(["lease-web", "lease-*", "x"]), max_size=1),
    since_ns=st.none() | st.integers(0, COUNT * 1100),
    until_ns=st.none() | st.integers(0, COUNT * 1100),
    services=some(st.sampled_from(["Display", "vitrail.Audio", "Moon"]), max_size=2),
    verdicts=some(st.sampled_from(["allow", "deny", "ask"]), max_size=2),
    rules=some(
        st.sampled_from(["30-user.policy", "30-user.policy:3", "30-user.policy:3:1",
                         "/etc/vitrail/policy.d/30-user.policy:5:1", "user.policy:3"]),
        max_size=1,
    ),
    peers=some(st.sampled_from(["cid 5", "cid 1*", "cid ?"]), max_size=1),
    outcomes=some(st.sampled_from(["x"]), max_size=1) | st.just([]),
    boot=st.sampled_from(["", "", "a" * 32, "b" * 32, "z" * 32]),
)  # fmt: skip


@given(
    filters=FILTERS,
    few=st.sampled_from([1, 5, 60, 20_000]),
    after=st.integers(0, COUNT),
    last=st.none() | st.integers(0, 40),
    newest_first=st.booleans(),
)
def test_every_plan_gives_the_same_answer(
    path: Path,
    filters: Filters,
    few: int,
    after: int,
    last: int | None,
    newest_first: bool,
) -> None:
    with pytest.MonkeyPatch.context() as patch, open_log(path) as log:
        patch.setattr(plan, "FEW", few)
        patch.setattr("broker.ipc.audit.query._PAGE", 50)
        everything = [*log.find(Filters())]
        expected = [f for f in everything if f.sequence > after and matches(f, filters)]
        if last is not None:
            expected = expected[len(expected) - min(last, len(expected)) :]
        if newest_first:
            expected.reverse()
        found = [*log.find(filters, after=after, last=last, newest_first=newest_first)]
    assert [f.sequence for f in found] == [f.sequence for f in expected]


@given(filters=FILTERS, few=st.sampled_from([1, 20_000]))
def test_counting_in_one_pass_and_by_index_is_the_same(
    path: Path, filters: Filters, few: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, open_log(path) as log:
        patch.setattr(plan, "FEW", few)
        made = log._planner.plan(filters)
        if made is None:
            assert log.counts(filters, 5).events == 0
            return
        ways = [
            way(log._rows, log._planner, made, 5) for way in (_by_index, _in_one_pass)
        ]
        expected = sum(matches(f, filters) for f in log.find(Filters()))
    one, other = (
        replace(
            counts,
            by={name: [*map(tuple, pairs)] for name, pairs in counts.by.items()},
            denied=[*map(tuple, counts.denied)],
            traffic=[replace(t, seconds=round(t.seconds, 6)) for t in counts.traffic],
        )
        for counts in ways
    )
    assert one == other
    assert one.events == expected


def _steps(log: Log, filters: Filters) -> str:
    made = log._planner.plan(filters)
    assert made is not None
    rows = log._rows(
        f"EXPLAIN QUERY PLAN SELECT sequence FROM event WHERE {made.where}", made.values
    )
    return " ".join(row[3] for row in rows)


@pytest.mark.parametrize("field", NAMED)
def test_every_field_has_an_index_that_is_used(path: Path, field: str) -> None:
    names = (
        "sandboxes",
        "leases",
        "services",
        "verdicts",
        "rules",
        "peers",
        "outcomes",
    )
    plural = dict(zip(NAMED, names, strict=True))[field]
    with open_log(path) as log:
        values = log._planner.values(field) or ["x"]
        steps = _steps(log, Filters(**{plural: values[:1]}))
    assert f"USING INDEX event_{field}" in steps or "COVERING INDEX" in steps, steps


def test_the_rare_condition_leads(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, open_log(path) as log:
        patch.setattr(plan, "FEW", 100)
        rare = log._planner.values("peer")[:1]
        steps = _steps(log, Filters(verdicts=["allow"], peers=rare, sandboxes=["web"]))
        assert "event_peer" in steps
        since = Filters(verdicts=["allow"], since_ns=495 * 1000)
        assert "event_time" in _steps(log, since)


def test_boots_are_those_between_starts(path: Path) -> None:
    with open_log(path) as log:
        assert [(b.boot[0], b.first, b.last) for b in log.boots()] == [
            ("a", 1, 199),
            ("b", 200, 499),
            ("c", 500, COUNT),
        ]


def test_a_log_of_version_1_is_asked_as_it_is() -> None:
    old = Path(__file__).parents[3] / "corpus" / "audit" / "v1.sqlite"
    with open_log(old) as log:
        everything = [*log.find(Filters())]
        denied = [*log.find(Filters(verdicts=["deny"]))]
        assert everything
        assert denied == [f for f in everything if f.fields().get("verdict") == "deny"]
        assert log.counts(Filters(), 3).events == len(everything)
