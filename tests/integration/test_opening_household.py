"""The rules for files and links of the shipped household, each tried once.

With the guests' real programs and a real broker, and the person's answers by
``brokerctl answer``.  What leads to a disposable is seen up to the decision.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path

import trio

from broker.ipc.control.api import Nothing, QuestionAnswerRequest
from broker.ipc.control.methods import ANSWER, PENDING
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.world import record, world

pytestmark = requires("waypipe")
RULES = Path(str(resources.files("broker"))) / "data/policy.d/90-household.policy"
TOPS = {
    "work": 'tags = ["trusted"]',
    "personal": 'tags = ["trusted"]',
    "banking": "",
    "untrusted": "",
    "throwaway": "",
}


@asynccontextmanager
async def household():
    # Disposables that cannot be started: only the decisions are tested here.
    absent = record("disposable", launch='image = "absent"')
    records = {"web": absent, "viewer": absent}
    async with world(records, start=False, image=False) as w:
        folder = w.paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        shutil.copy(RULES, folder)
        await w.start()
        async with plain(w, *TOPS, tops=TOPS) as guests:
            # A disposable lives as long as a program of it, so the program comes first.
            await w.run("throwaway", "sleep", "600", window=False)
            w.write_record("throwaway", record("disposable"))

            async def disposable():
                found = {s.name: s for s in (await w.status()).sandboxes}
                return found["throwaway"].sandbox_class == "disposable"

            await eventually(disposable)
            yield w, guests


def line(text: str) -> int:
    """The number of the only rule that contains these words, in order."""
    words = text.split()
    found = [
        number
        for number, rule in enumerate(RULES.read_text().splitlines(), 1)
        if not rule.startswith("#") and rule.split()[: len(words)] == words
    ]
    assert len(found) == 1, text
    return found[0]


def decided(w, **wanted):
    """The newest decision with these fields: verdict, target and line of the rule."""
    event = w.events("decision", **wanted)[-1]
    name, _, number = event["rule"].rpartition(":")
    assert name.endswith("90-household.policy"), event
    return event["verdict"], event.get("target", ""), int(number)


async def answered(w, *, allow: bool):
    """Answer the next question; returns its targets."""

    async def asked():
        async with w.client() as client:
            return (await client.call(PENDING, Nothing())).questions

    (question,) = await eventually(asked)
    async with w.client() as client:
        await client.call(ANSWER, QuestionAnswerRequest(id=question.id, allow=allow))
    return question.targets


async def asking(w, guest, *words, allow):
    """Run a guest's command and answer its questions; code, output, targets."""
    done = []

    async def run():
        done.extend(await guest.command(*words))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        targets = await answered(w, allow=allow)
    return (*done, targets)


async def test_each_line_for_files_and_links_decides_as_its_comment_says():
    async with household() as (w, guests):
        work, banking = guests["work"], guests["banking"]
        untrusted, personal = guests["untrusted"], guests["personal"]

        # Addresses: out of the way of everything that matters.
        url = "vitrail.OpenURL"
        for guest, text in (
            (banking, f"{url} * banking"),
            (untrusted, f"{url} * @anyvm"),
        ):
            code, said = await guest.command("xdg-open", "https://example.org/")
            assert (code, "denied" in said) == (1, True), said
            assert decided(w, service=url, sandbox=guest.name)[::2] == (
                "deny",
                line(text),
            )
        await work.command("xdg-open", "https://example.org/")
        first = ("allow", "@dispvm:web", line(f"{url} * @tag:trusted @default"))
        assert decided(w, service=url, sandbox="work") == first
        to_web = ("vitrail-open", "--to", "@dispvm:web", "http://example.org/")
        code, said, targets = await asking(w, work, *to_web, allow=False)
        assert (code, targets) == (1, ["@dispvm:web"]), said
        second = line(f"{url} * @tag:trusted @dispvm:web")
        assert decided(w, service=url, sandbox="work")[::2] == ("deny", second)

        # Files: from work and personal by hand, never into or out of banking.
        copy = "vitrail.FileCopy"
        for guest in guests.values():
            (guest.home / "x").write_text(guest.name)
        code, said = await banking.command("vitrail-copy", "x", "work")
        assert code == 1, said
        assert decided(w, service=copy, sandbox="banking")[2] == line(
            f"{copy} * banking"
        )
        code, said = await work.command("vitrail-copy", "x", "banking")
        assert code == 1, said
        into = line(f"{copy} * @anyvm banking")
        assert decided(w, service=copy, sandbox="work")[2] == into
        code, said, _ = await asking(
            w, work, "vitrail-copy", "x", "personal", allow=True
        )
        assert code == 0, said
        assert (personal.home / "Incoming/work/x").read_text() == "work"
        by_hand = line(f"{copy} * @tag:trusted")
        assert decided(w, service=copy, sandbox="work")[::2] == ("allow", by_hand)
        code, said = await untrusted.command("vitrail-copy", "x", "work")
        assert (code, "denied" in said) == (1, True), said

        # A disposable asks only just after the person has acted in its window.
        throwaway = guests["throwaway"]
        code, said = await throwaway.command("vitrail-copy", "x", "work")
        assert (code, "no input in a window" in said) == (1, True), said
        thrown = line(f"{copy} * @type:disposable")
        assert decided(w, service=copy, sandbox="throwaway")[::2] == ("deny", thrown)

        # Files to look at: always in something that is thrown away.
        file = "vitrail.OpenFile"
        (untrusted.home / "a.txt").write_text("a")
        words = ("vitrail-open", "a.txt")
        code, said, targets = await asking(w, untrusted, *words, allow=False)
        assert (code, targets) == (1, ["@dispvm:viewer"]), said
        look = line(f"{file} * @anyvm @default")
        assert decided(w, service=file, sandbox="untrusted")[::2] == ("deny", look)
        code, said = await work.command("vitrail-open", "--to", "personal", "x")
        assert (code, "denied" in said) == (1, True), said
        rest = line(f"{file} * @anyvm @anyvm")
        assert decided(w, service=file, sandbox="work")[::2] == ("deny", rest)
        assert not (banking.home / "Incoming").exists()
