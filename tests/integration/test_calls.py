"""``vitrail.Call`` between two sandboxes, with a real broker and the guests' programs."""

from __future__ import annotations

import shlex
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from broker.ipc.control.api import Nothing, QuestionAnswerRequest
from broker.ipc.control.methods import ANSWER, PENDING
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.world import record, world

pytestmark = requires("waypipe")
RULES = """\
vitrail.Call +echo    work vault     allow
vitrail.Call +env     work @default  allow target=vault
vitrail.Call +missing work vault     allow
vitrail.Call +code    work vault     allow
vitrail.Call +deaf    work vault     allow
vitrail.Call +few     work vault     allow rate=2/min
vitrail.Call +small   work vault     allow max-size=100K
vitrail.Call +near    work vault     allow gesture=5s
vitrail.Call +off     work absent    allow autostart=no
test.Named   +key     work vault     allow
test.Named   *        work vault     deny
vitrail.Call +pick    work @default  ask ttl=1h
vitrail.Call +pick    work vault     ask ttl=1h
vitrail.Call +pick    work absent    ask ttl=1h
vitrail.Call *        work work      allow
"""
SERVICES = {
    "echo": "cat",
    "env": 'echo "$QREXEC_REMOTE_DOMAIN $VITRAIL_CALL_SOURCE $VITRAIL_CALL_SERVICE"',
    "code": "exit 300",
    "deaf": "exec sleep 600",
    "few": "true",
    "near": "true",
    "small": "cat",
    "pick": 'echo "picked $QREXEC_REMOTE_DOMAIN"',
    "test.Named": 'echo "$1 $QREXEC_SERVICE_ARGUMENT $QREXEC_SERVICE_FULL_NAME"',
}


def offer(guest, services=SERVICES):
    folder = guest.home / ".config/vitrail-services"
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in services.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@asynccontextmanager
async def sandboxes(rules=RULES):
    async with (
        world(
            {
                "app": record(),
                "absent": record("persistent", launch='image = "absent"'),
            },
            image=False,
            rules=rules,
        ) as w,
        plain(w, "work", "vault") as guests,
    ):
        offer(guests["vault"])
        yield w, guests["work"], guests["vault"]


async def test_a_call_carries_bytes_both_ways_and_the_exit_code():
    async with sandboxes() as (w, work, _):
        code, said = await work.script("echo hello | vitrail-call -t vault echo")
        assert (code, said) == (0, "hello\n")
        code, said = await work.script(
            "head -c 20000000 /dev/zero | vitrail-call --target vault echo | wc -c"
        )
        assert (code, said) == (0, "20000000\n")
        code, said = await work.script("vitrail-call env </dev/null")
        assert (code, said) == (0, "work work env\n")
        assert (await work.script("vitrail-call -t vault code"))[0] == 300 & 0xFF
        code, said = await work.script("vitrail-call -t vault test.Named key")
        assert (code, said) == (0, "key key test.Named+key\n")
        first = await w.only_event("decision", verdict="allow", argument="+env")
        assert (first["target"], first["sandbox"]) == ("vault", "work")
        opened = w.events("stream.opened", service="vitrail.Call", sandbox="work")
        # The decision is on disk before the bytes: its number precedes the end's.
        assert len(opened) == 5

        async def all_closed():
            found = w.events("stream.closed", service="vitrail.Call", sandbox="work")
            return len(found) == 5 and found

        closed = await eventually(all_closed)
        assert max(one["bytes_from_sandbox"] for one in closed) > 20_000_000
        await _audited(w)


async def _audited(w):
    """One command of docs/calls.md names who called what, Qubes' names included."""
    page = (Path(__file__).parents[2] / "docs/calls.md").read_text()
    (line,) = [line for line in page.splitlines() if "--service '[!v]*'" in line]
    words = shlex.split(line)[1:]
    words = words[: words.index("--since")]
    told = await brokerctl(*words, "--json", env=w.environ)
    assert told.code == 0, told
    made = [
        (e["sandbox"], e["target"], e["service"], e["argument"]) for e in told.objects
    ]
    assert made == [
        ("work", "vault", "vitrail.Call", "+echo"),
        ("work", "vault", "vitrail.Call", "+echo"),
        ("work", "vault", "vitrail.Call", "+env"),
        ("work", "vault", "vitrail.Call", "+code"),
        ("work", "vault", "test.Named", "+key"),
    ]


async def test_calls_that_no_rule_allows_start_nothing():
    async with sandboxes() as (w, work, vault):
        for words in (
            "-t vault other",
            "-t vault test.Named lock",
            "-t vault vitrail.FileCopy",
            "-t vault VITRAIL.x",
            "-t absent off",
            "-t work echo",
            "-t @adminvm echo",
            "-t vault echo -rf",
        ):
            code, said = await work.script(f"vitrail-call {words} </dev/null")
            assert code == 125, (words, said)
        code, said = await work.script("vitrail-call -t vault ../echo </dev/null")
        assert (code, "invalid name of a service" in said) == (125, True)
        code, said = await vault.script("vitrail-call -t work echo </dev/null")
        assert (code, "denied" in said) == (125, True)
        assert not w.events("program.started", name="vitrail-files")
        code, said = await work.script("vitrail-call -t vault missing </dev/null")
        assert code == 127


async def test_a_question_offers_targets_and_its_answer_holds():
    async with sandboxes() as (w, work, _), w.client() as client:

        async def pending():
            return (await client.call(PENDING, Nothing())).questions

        told = []

        async def call():
            told.append(await work.script("vitrail-call pick </dev/null 2>/dev/null"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            (question,) = await eventually(pending)
            assert set(question.targets) == {"vault", "absent"}
            assert question.words == "to call the service pick"
            assert question.details == []
            assert w.events("program.started", name="vitrail-files") == []
            answer = QuestionAnswerRequest(
                id=question.id, allow=True, target="vault", keep="time"
            )
            await client.call(ANSWER, answer)
        assert told == [(0, "picked work\n")]
        await call()  # it holds for an hour
        assert told[1] == told[0]
        assert len(w.events("question.asked")) == 1


async def test_a_rule_limits_rate_bytes_and_gestures():
    async with sandboxes() as (w, work, _):
        for code in (0, 0, 125):
            assert (await work.script("vitrail-call -t vault few </dev/null"))[
                0
            ] == code
        # Nobody has acted in a window of it.
        assert (await work.script("vitrail-call -t vault near </dev/null"))[0] == 125
        denied = w.events("decision", verdict="deny")
        assert "no input in a window of the sandbox" in denied[-1]["reason"]
        call = "vitrail-call -t vault small"
        # A frame of 5 bytes is around each piece.
        code, said = await work.script(f"head -c 102000 /dev/zero | {call} | wc -c")
        assert (code, said) == (0, "102000\n")
        code, said = await work.script(f"head -c 102400 /dev/zero | {call}; echo =$?")
        assert said.endswith("=125\nvitrail: the broker closed the connection\n"), said[
            -200:
        ]

        async def cut():
            found = w.events("stream.closed", service="vitrail.Call", sandbox="work")
            return [one for one in found if "call exceeded the" in one["reason"]]

        (closed,) = await eventually(cut)
        assert closed["bytes_from_sandbox"] <= 102400 + 1000
