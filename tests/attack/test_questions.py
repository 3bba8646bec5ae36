"""A sandbox asks; it must not be heard as the person, nor wear the person out.

It reaches one part of a question, its request: names, an argument, claims,
and how often.  It cannot reach the agent, which listens nowhere.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import pytest
import trio

from broker.authority.questions.prompts import Questions
from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.question import Keep, PersonAnswer
from tests.integration.test_asking import desk, of
from tests.kit.eventually import eventually
from tests.kit.helper_starter import ended_starter
from tests.kit.rulebook import VAULT, WORK, rulebook, yes

ASKS = "t.Ask * @anyvm @anyvm ask\nt.Ask * @anyvm @adminvm ask\n"


async def flooded(b, number, asked=limits.QUESTIONS_BURST, seen=lambda: True, **more):
    """Ask so often at once; returns why all but ``asked`` were refused without a question.

    ``seen``: whether the person has these.
    """
    reasons = []

    async def one(index):
        try:
            await b.once(argument=f"+{index}", target="vault", **more)
        except RefusedError as error:
            reasons.append(error.message)

    async with trio.open_nursery() as nursery:
        for index in range(number):
            nursery.start_soon(one, index)
        with trio.move_on_after(100):
            while len(reasons) < number - asked or not seen():
                await trio.testing.wait_all_tasks_blocked(0.02)
        nursery.cancel_scope.cancel()
    return reasons


@pytest.mark.parametrize(
    ("more", "limit"), [("write", " write=yes"), ("raw", ""), ("source", "")]
)
async def test_a_remembered_yes_is_not_for_more_than_was_asked(more, limit):
    """To read a folder, or to play through the filter: not to write, nor without one."""
    wider = {"source": "@adminvm"}.get(more, True)
    rule = "t.Ask * * vault ask"
    async with rulebook(f"{rule}{limit} ttl=8h\n") as b:
        b.person.says = yes(keep=Keep.TIME)
        await b.once(argument="+paper", target="vault")
        await b.once(argument="+paper", target="vault")
        assert len(b.person.asked) == 1
        await b.once(argument="+paper", target="vault", **{more: wider})
        assert len(b.person.asked) == 2


async def test_a_flood_of_questions_shows_few_dialogs_and_writes_little():
    """A thousand different ones: the person sees four, the log few lines."""
    async with rulebook(ASKS) as b:
        b.decider.asker = questions = Questions(
            paths=b.paths,
            log=b.log,
            compositor=lambda: None,
            starter=ended_starter(),
            screen_reader=False,
            notify=lambda *_, **__: None,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(questions.run)
            reasons = await flooded(b, 1000)
            assert len(reasons) >= 1000 - limits.QUESTIONS_BURST
            assert set(reasons) == {"denied: the sandbox asks too often"}
            asked = b.events("question.asked")
            assert len(asked) <= limits.QUESTIONS_BURST
            refused = b.events("decision")
            assert len(refused) < 40, "equal refusals are counted, whatever was asked"
            # Another sandbox is asked about all the same, and is next.
            nursery.start_soon(other_asks, b)
            await eventually(lambda: waits_for(questions, "vault"))
            nursery.cancel_scope.cancel()


async def other_asks(b):
    try:
        await b.once(lease=VAULT, target="work")
    except RefusedError:
        return


async def waits_for(questions, sandbox):
    return any(e.question.sandbox == sandbox for e in questions.pending())


async def test_rate_limit_ends_a_flood_before_the_first_question():
    async with rulebook("t.Ask * @anyvm @anyvm ask rate=2/min\n") as b:
        reasons = await flooded(b, 50, 2, lambda: len(b.person.asked) >= 2)
        assert len(b.person.asked) == 2
        assert all("more than 2 calls" in reason for reason in reasons)


HOSTILE = [
    "\x1b]0;owned\x07",
    "\u202etxt.exe",
    "work\nvault (Work) wants nothing at all",
    "\u0430dmin",
    "A" * 100_000,
    "\ud800",
    "'; DROP TABLE events; --",
    "</span><b>Allow</b>",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_words_are_escaped_and_short_everywhere(text):
    """In the dialog, in what the log holds, and in what brokerctl prints."""
    async with rulebook("* * @anyvm @anyvm ask\n") as b:
        b.person.says = lambda q: PersonAnswer(allow=False, by="person")
        for service in ("t.Ask", text):
            request = b.request(
                service, argument=f"+{text}", target="vault", mime=text, scheme=text
            )
            with pytest.raises(RefusedError):
                async with b.decider.permit(request):
                    raise AssertionError("no yes was given")
        for asked in b.person.asked:
            for words in (
                asked.service,
                asked.argument,
                asked.words,
                *map(str, asked.details),
            ):
                assert words.isascii()
                assert words.isprintable()
                assert len(words) < 250
        assert b.person.asked
        assert {q.sandbox for q in b.person.asked} == {"work"}, "the verified name"


@pytest.mark.parametrize(
    "forged",
    [
        PersonAnswer(allow=True, target="dom0", by="person"),
        PersonAnswer(allow=True, target="work", by="person"),
        PersonAnswer(allow=True, target="@dispvm", by="person"),
        PersonAnswer(allow=True, target="vault", keep=Keep.SESSION, by="person"),
        PersonAnswer(allow=True, target="*", by="person"),
    ],
)
async def test_an_answer_that_was_not_offered_is_refused(forged):
    """Of an agent that was taken over: it can say yes to the question, not more."""
    async with rulebook("t.Ask * work vault ask\n") as b:
        b.person.says = lambda question: forged
        with pytest.raises(RefusedError, match="offered"):
            await b.once(target="vault")
        assert b.events("decision")[-1]["verdict"] == "deny"
        assert b.events("grant.made") == []


async def test_one_sandboxs_grant_is_of_no_use_to_another():
    """Nor to the same one in its next life, or for anything else."""
    async with rulebook("t.Ask * @anyvm @adminvm ask remember=session\n") as b:
        b.person.says = lambda q: PersonAnswer(
            allow=True, target="dom0", keep=Keep.SESSION, by="person"
        )
        await b.once()
        b.person.says = lambda q: PersonAnswer(allow=False, by="person")
        for other in (
            {"lease": VAULT},
            {"argument": "+x"},
            {"mime": "text/plain"},
            {"target": "dom0"},
        ):
            with pytest.raises(RefusedError):
                await b.once(**other)
        await b.once()
        await b.decider.lease_ended(WORK.id)
        with pytest.raises(RefusedError):
            await b.once()


async def test_the_agent_listens_nowhere():
    """Its ears are one unnamed pair of sockets and the compositor's connection."""
    async with desk() as d:
        d.ask("a", of("a"))
        pid = await d.ready()
        inodes = set()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
                    inodes.add(found[1])
        named = {}
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            words = line.split()
            # Flags 00010000 are those of a socket that listens (proc_net(5)).
            if words[6] in inodes:
                named[words[6]] = (words[3], words[7:] or [""])
        assert named
        assert all(flags != "00010000" for flags, _ in named.values())
        assert [name for _, (name, *_) in named.values() if name] == []
        # In no network namespace does anything of it wait for a connection.
        for table in ("tcp", "tcp6", "udp", "udp6", "vsock"):
            path = Path(f"/proc/{pid}/net/{table}")
            if path.exists():
                assert not any(inode in path.read_text().split() for inode in inodes)


async def test_the_agent_is_confined_and_its_memory_in_no_core_file():
    """No program, no process, no privilege: calls that it never needs are refused."""
    async with desk() as d:
        d.ask("a", of("a"))
        pid = await d.ready()
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
        assert re.search(r"^Threads:\t1$", status, re.MULTILINE)
        assert Path(f"/proc/{pid}/comm").read_text() == "vitrail-prompt\n"
        assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0
