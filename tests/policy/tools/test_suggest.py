"""``policy suggest``: lines from a log that a real decider wrote, tried on it."""

from __future__ import annotations

import pytest

from broker.authority.permit import Request
from broker.core.errors import RefusedError
from broker.core.services import NETWORK
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from policy.destinations import NET
from policy.rules.world import world_of
from policy.tools.suggest import suggest
from tests.kit.rulebook import WORK, rulebook

RECORD = 'class = "persistent"\nlaunch.kind = "bwrap"\nlaunch.network = "rules"\n'
WWW = "vitrail.Network +www.test work @net allow"


def flow(host, protocol="tcp", port=443):
    return Request(
        lease=WORK,
        service=NETWORK,
        argument=f"+{host}",
        target=NET,
        protocol=protocol,
        port=port,
        settled=True,
    )


def lookup(host):
    return flow(host, "dns", None)


async def ask(book, *requests):
    """The verdicts of these."""
    verdicts = []
    for request in requests:
        try:
            async with book.decider.permit(request):
                verdicts.append("allow")
        except RefusedError:
            verdicts.append("deny")
    return verdicts


def suggested(book, shift=0):
    """Lines and the rest; the log's times are ``shift`` seconds apart."""
    with open_log(book.path / "audit.sqlite") as log:
        events = [
            (row.time_ns + number * shift * 10**9, row.fields())
            for number, row in enumerate(log.find(Filters(kinds=("decision",))))
        ]
    return suggest(events, book.rules.now.rules, world_of(book.records))


async def run(rules, *requests, then=None, shift=0):
    """Have requests decided; try the lines on the same requests."""
    async with rulebook(rules, work=RECORD) as book:
        await ask(book, *requests)
        found = suggested(book, shift)
        lines = [one.line for one in found.lines]
        await book.change("10-new.policy", "\n".join(lines) + "\n")
        verdicts = await ask(book, *(then or requests))
        return found, lines, verdicts


async def test_one_line_a_destination_with_its_ports():
    asked = [
        lookup("www.test"),
        flow("www.test"),
        flow("www.test", port=80),
        flow("www.test", port=8443),
        lookup("cdn.test"),
        flow("cdn.test"),
        flow("cdn.test", "udp"),
        flow("192.0.2.7", "icmp", None),
    ]
    found, lines, verdicts = await run("", *asked)
    assert lines == [
        f"{WWW} port=80,443,8443 protocol=tcp",
        "vitrail.Network +cdn.test work @net allow port=443 protocol=tcp,udp",
        "vitrail.Network +192.0.2.7 work @net allow protocol=icmp",
    ]
    assert [one.times for one in found.lines] == [4, 3, 1]
    assert verdicts == ["allow"] * len(asked)
    assert not found.left


async def test_ports_that_protocols_do_not_share_are_lines_of_their_own():
    asked = [flow("www.test"), flow("www.test", "udp", 123)]
    _, lines, _ = await run("", *asked)
    assert sorted(lines) == [
        f"{WWW} port=123 protocol=udp",
        f"{WWW} port=443 protocol=tcp",
    ]


async def test_nothing_else_is_opened():
    others = [flow("www.test", port=80), flow("a.www.test"), flow("www.test", "udp")]
    _, _, verdicts = await run("", flow("www.test"), then=others)
    assert verdicts == ["deny"] * 3


async def test_a_name_that_was_only_looked_up_says_that_its_port_is_a_guess():
    found, lines, verdicts = await run("", lookup("www.test"))
    assert lines == [f"{WWW} port=443 protocol=tcp"]
    assert found.lines[0].guessed
    assert verdicts == ["allow"]


async def test_an_address_that_was_tried_after_its_name_needs_no_line():
    asked = [flow("www.test"), flow("93.184.216.34")]
    _, lines, _ = await run("", *asked)
    assert lines == [f"{WWW} port=443 protocol=tcp"]
    _, lines, _ = await run("", *asked, shift=3)
    assert len(lines) == 2


async def test_what_is_observed_is_seen_though_it_was_allowed():
    """And by lines that the deny, once it is enforced, would not refuse."""
    rules = """\
vitrail.Network +known.test work @net allow
vitrail.Network * work @net deny mode=observe
vitrail.Network * work @net allow
"""
    asked = [flow("www.test"), flow("known.test")]
    async with rulebook(rules, work=RECORD) as book:
        assert await ask(book, *asked) == ["allow", "allow"]
        found = suggested(book)
        (one,) = found.lines
        assert one.line == f"{WWW} port=443 protocol=tcp"
        assert one.before.endswith("50-test.policy:2")
        text = rules.replace(" mode=observe", "")
        await book.change("50-test.policy", text)
        assert await ask(book, *asked) == ["deny", "allow"]
        await book.change("10-new.policy", f"{one.line}\n")
        assert await ask(book, *asked) == ["allow", "allow"]


async def test_what_rules_allow_by_now_and_what_a_record_refuses_need_no_line():
    async with rulebook("") as book:
        await ask(book, flow("www.test"))  # its record has no such network
        book.write_record("work", RECORD)
        await book.reload()
        await ask(book, flow("a.test"))
        await book.change("50-test.policy", "vitrail.Network +a.test work @net allow\n")
        found = suggested(book)
    assert found.lines == []
    assert sum(found.left.values()) == 1


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({}, "t.Ask + work vault allow"),
        (
            {"scheme": "https", "host": "www.test"},
            "t.Ask + work vault allow scheme=https host=www.test",
        ),
        ({"mime": "text/plain"}, "t.Ask + work vault allow mime=text/plain"),
    ],
)
async def test_other_services_have_lines_of_their_facts(facts, line):
    request = Request(lease=WORK, service="t.Ask", target="vault", **facts)
    _, lines, verdicts = await run("", request)
    assert lines == [line]
    assert verdicts == ["allow"]


async def test_a_line_that_another_one_covers_is_left_out():
    plain = Request(lease=WORK, service="t.Ask", target="vault")
    more = Request(lease=WORK, service="t.Ask", target="vault", mime="text/plain")
    found, lines, _ = await run("", plain, more)
    assert lines == ["t.Ask + work vault allow"]
    assert found.lines[0].times == 2
