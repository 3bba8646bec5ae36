"""``audit connections``, boots, numbers, and a log that was changed."""

from __future__ import annotations

import re
import sqlite3

import pytest

from broker.authority.audit.store import open_store
from broker.ipc.audit.schema import (
    BrokerStart,
    Decision,
    EventVerdict,
    LeaseBegin,
    LeaseEnd,
    StreamClosed,
    StreamOpened,
    StreamRefused,
    TransferBegin,
    TransferEnd,
)
from tests.kit.brokerctl import brokerctl, paths_of

WEB = {"sandbox": "web-1234", "lease": "aa", "service": "vitrail.Display", "stream": 2}
NO = {"sandbox": "web-1234", "lease": "aa", "service": "vitrail.Audio", "stream": 3}
LINK = {"sandbox": "web-1234", "lease": "aa", "service": "vitrail.OpenURL", "stream": 4}
EVENTS = [
    BrokerStart(software="0.1", pid=1),
    LeaseBegin(sandbox="web-1234", lease="aa", record="web"),
    Decision(
        **WEB,
        verdict=EventVerdict.ALLOW,
        rule="/etc/vitrail/policy.d/30-user.policy:7",
        target="@adminvm",
        detail={"record": "/home/a/sandboxes.d/web.toml:6:1"},
    ),
    StreamOpened(**WEB),
    Decision(**NO, verdict=EventVerdict.DENY, rule="/home/a/sandboxes.d/web.toml:9:1"),
    StreamClosed(
        **WEB,
        bytes_from_sandbox=2048,
        bytes_to_sandbox=10,
        seconds=7.5,
        reason="the application left",
    ),
    StreamRefused(sandbox="web-1234", lease="aa", reason="a mistake", count=3),
]


OPENED = [
    LeaseBegin(sandbox="web-1234", lease="aa", record="web"),
    Decision(
        **LINK,
        verdict=EventVerdict.ALLOW,
        rule="30-user.policy:8",
        target="@dispvm:view",
        object="example.org",
    ),
    StreamOpened(**LINK),
    TransferBegin(
        **LINK,
        transfer=1,
        target="@dispvm:view",
        rule="30-user.policy:8",
        object="https://example.org/a\x1b[2J",
    ),
    TransferEnd(
        **LINK,
        transfer=1,
        target="@dispvm:view",
        bytes=0,
        seconds=1.0,
        opened_in="view-9900",
        outcome="done",
    ),
    StreamClosed(**LINK, bytes_from_sandbox=40, bytes_to_sandbox=2, seconds=1.5),
]


async def fill(env, events=EVENTS):
    async with open_store(paths_of(env).audit) as store:
        for event in events:
            await store.record(event)


async def test_connection_ended_with_sandbox_or_broker(env):
    """A dead stream that is listed as open is looked for."""
    (folder := paths_of(env).config[0] / "sandboxes.d").mkdir(parents=True)
    (folder / "web.toml").write_text(
        'class = "disposable"\n[launch]\nkind = "bwrap"\nnetwork = "user"\n'
    )
    first, second = dict(WEB, stream=5), dict(WEB, lease="bb", stream=6)
    forward = {"sandbox": "web-1234", "lease": "bb", "service": "vitrail.Tcp"}
    late = dict(second, stream=9)
    allow = {"verdict": EventVerdict.ALLOW, "rule": "30-user.policy:8"}
    beginnings = [
        event
        for each in (first, second)
        for event in (Decision(**each, **allow), StreamOpened(**each))
    ]
    await fill(
        env,
        [
            BrokerStart(software="0.1", pid=1),
            *beginnings,
            Decision(**forward, **allow),
            LeaseEnd(sandbox="web-1234", lease="aa", reason="it has ended"),
            BrokerStart(software="0.1", pid=2),
            Decision(**late, **allow),
            Decision(**forward, **allow),
        ],
    )
    argv = ("audit", "connections", "--sandbox", "web-1234")
    answer = await brokerctl(*argv, env=env)
    (_, *lines) = answer.lines
    cells = [re.split(r"  +", line.strip()) for line in lines]
    assert [row[9] for row in cells] == [
        "the sandbox ended",
        "the broker ended",
        "the broker ended",
        "still open",
        "-",
    ]
    assert "'web-1234' has network = \"user\": only flows" in answer.err
    rows = (await brokerctl(*argv, "--json", env=env)).objects
    assert [row["open"] for row in rows] == [False, False, False, True, False]


async def test_what_was_opened_and_where_is_in_its_connections_line(env):
    await fill(env, OPENED)
    asked = ("audit", "connections", "--service", "openurl")
    shown = await brokerctl(*asked, env=env)
    assert shown.code == 0, shown.err
    head, opened = shown.lines
    assert head.split()[5] == "OBJECT"
    cells = re.split(r"  +", opened.strip())
    assert cells[4:6] == ["@dispvm:view (view-9900)", r"https://example.org/a\x1b[2J"]
    (one,) = (await brokerctl(*asked, "--json", env=env)).objects
    assert one["opened_in"] == "view-9900"
    assert one["object"] == "https://example.org/a\x1b[2J"
    assert one["events"] == [2, 3, 4, 5, 6]


async def test_what_the_user_copies_is_one_line_and_has_no_decision(env):
    """It was a line for its begin, and another for its end."""
    own = {"service": "vitrail.FileCopy", "target": "work"}
    ends = {"bytes": 4, "seconds": 1.0, "opened_in": "work", "outcome": "done"}
    copies = [
        event
        for number in (7, 8, 7)  # of another broker, which counts from the start again
        for event in (
            TransferBegin(**own, transfer=number, object="notes.txt"),
            TransferEnd(**own, transfer=number, **ends),
        )
    ]
    await fill(env, [*EVENTS, *copies])
    (_, *lines) = (await brokerctl("audit", "connections", env=env)).lines
    cells = [re.split(r"  +", line.strip()) for line in lines]
    assert [row[3] for row in cells[3:]] == ["vitrail.FileCopy"] * 3
    assert [row[4:6] for row in cells[3:]] == [["work", "notes.txt"]] * 3
    assert [row[-1] for row in cells] == ["3", "5", "-", "-", "-", "-"]
    asked = ("audit", "connections", "--service", "filecopy", "--json")
    found = (await brokerctl(*asked, env=env)).objects
    assert [one["events"] for one in found] == [[8, 9], [10, 11], [12, 13]]
    assert {one["ended"] for one in found} == {"done"}


async def test_a_refused_link_has_its_host(env):
    no = Decision(**LINK, verdict=EventVerdict.DENY, object="example.org")
    await fill(env, [OPENED[0], no])
    (_, line) = (await brokerctl("audit", "connections", env=env)).lines
    assert re.split(r"  +", line.strip())[4:6] == ["-", "example.org"]


async def test_one_line_each(env):
    await fill(env)
    shown = await brokerctl("audit", "connections", env=env)
    assert shown.code == 0, shown.err
    head, opened, denied, refused = shown.lines
    assert head.split()[:3] == ["WHEN", "SANDBOX", "RECORD"]
    cells = re.split(r"  +", opened.strip())
    assert cells[1:4] == ["web-1234", "web", "vitrail.Display #2"]
    assert cells[4:8] == ["you", "-", "2.0 KiB", "10 B"]
    assert "web.toml:6:1, 30-user.policy:7" in opened
    assert "7.5 s" in opened
    assert opened.rstrip().endswith(" 3"), "the decision's number"
    assert "denied" in denied
    assert "a mistake (3 times)" in refused


@pytest.mark.parametrize(
    ("words", "services"),
    [
        (["--sandbox", "web"], ["vitrail.Display", "vitrail.Audio", ""]),
        (["--sandbox", "WEB-1234", "--service", "AUDIO"], ["vitrail.Audio"]),
        (["--verdict", "deny"], ["vitrail.Audio"]),
        (["--rule", "30-user.policy:7"], ["vitrail.Display"]),
        (["-g", "2.0 kib"], ["vitrail.Display"]),
        (["-g", "30-user.policy:7"], ["vitrail.Display"]),
    ],
)
async def test_filters(env, words, services):
    await fill(env)
    found = await brokerctl("audit", "connections", *words, "--json", env=env)
    assert [one["service"] for one in found.objects] == services


async def test_nothing_is_said(env):
    await fill(env)
    none = await brokerctl("audit", "connections", "--sandbox", "other", env=env)
    assert (none.code, none.err) == (1, "no connections match\n")
    events = await brokerctl("audit", "--sandbox", "other", env=env)
    unknown = "no events match\nno sandbox or record is named 'other'\n"
    assert (events.code, events.err) == (1, unknown)


async def test_numbers_boots_and_a_search_in_shown_text(env):
    await fill(env)
    lines = (await brokerctl("audit", env=env)).lines
    assert [int(line.split()[2]) for line in lines] == list(range(1, 8))
    found = await brokerctl("audit", "-g", "display #2 to you: allow", env=env)
    assert len(found.lines) == 1, "words that stand in no value alone"
    boots = await brokerctl("audit", "--list-boots", env=env)
    assert boots.lines[1].split()[0] == "0"


async def test_a_changed_log_is_shown_with_a_banner(env):
    await fill(env)
    assert (await brokerctl("audit", env=env)).code == 0
    with sqlite3.connect(paths_of(env).audit) as db:
        db.execute(
            "UPDATE event SET body = replace(body, 'web-1234', 'web-4321') "
            "WHERE sequence = 4"
        )
    shown = await brokerctl("audit", env=env)
    assert shown.code == 3
    assert "WARNING: this log is NOT intact" in shown.err
    assert len(shown.lines) == 7
