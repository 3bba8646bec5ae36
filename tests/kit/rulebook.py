"""A decider on real files and a real log, with a person who says what a test says."""

from __future__ import annotations

from contextlib import asynccontextmanager

import trio

from broker.authority.decider import Decider
from broker.authority.permit import Request
from broker.authority.rules import Rules, follow_files
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.core.paths import find_paths
from broker.core.question import Keep, PersonAnswer
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.viewer.network.network_flows import NetworkFlows
from policy.records.loader import load_records, search_path
from tests.kit.link.roles import journal
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import record


def lease_of(name, number=0):
    """A lease of a sandbox of that name."""
    return Lease(LeaseId(f"{number:016x}"), SandboxName(name), SandboxName(name), 1)


WORK = lease_of("work", 1)
VAULT = lease_of("vault", 2)


class Person:
    """Answers questions, when the test says so."""

    def __init__(self):
        self.asked = []
        self.says = None
        """Question to answer; None: wait for ``may``."""
        self.more = trio.Event()

        self.open = {}
        self.missing = []

    def forget(self, lease):
        """Nothing waits here but the one who asked."""

    def admit(self, question):
        number = len(self.asked) + len(self.open) + 1
        self.open[number] = question
        return number

    def absent(self, number):
        self.missing.append(number)
        return True

    def leave(self, number):
        self.open.pop(number, None)

    async def ask(self, number):
        question = self.open[number]
        self.asked.append(question)
        self.more.set()
        self.more = trio.Event()
        if self.says is None:
            await trio.sleep_forever()
        answer = self.says(question)
        return await answer if hasattr(answer, "__await__") else answer

    async def wait_asked(self, number):
        while len(self.asked) < number:
            await self.more.wait()


def yes(keep=Keep.ONCE, target=None):
    """Says yes to whatever is asked."""
    return lambda question: PersonAnswer(
        allow=True, target=target or question.targets[0], keep=keep, by="person"
    )


def no(question):
    """Says no."""
    del question
    return PersonAnswer(allow=False, by="person", reason="the user said no")


class Rulebook:
    """Files of rules and records, and who decides by them."""

    def __init__(self, path, log):
        self.path = path
        self.log = log
        environ = {"XDG_RUNTIME_DIR": str(path / "run"), "HOME": str(path)}
        self.paths = find_paths({**environ, "XDG_CONFIG_DIRS": str(path / "none")})
        self.folder = self.paths.config[0] / "policy.d"
        self.folder.mkdir(parents=True)
        (self.paths.config[0] / "sandboxes.d").mkdir()
        for name in ("work", "vault"):
            self.write_record(name, record("persistent"))
        self.told = []
        self.rules = None
        self.decider = None
        self.person = Person()
        self.leases = [WORK, VAULT]
        self.reloaded = trio.Event()
        self.failing = None
        self.pending_records = None
        self.last_question = 0

    def write(self, name, text):
        (self.folder / name).write_text(text)

    def write_record(self, name, text):
        (self.paths.config[0] / "sandboxes.d" / f"{name}.toml").write_text(text)

    def flows(self):
        """Return the network flows of a viewer that asks these rules."""
        return NetworkFlows(
            decider=self.decider,
            log=self.log,
            record=lambda lease: self.records.records.get(lease.record),
        )

    def read_records(self):
        self.records = load_records(
            search_path(self.paths.runtime, self.paths.config[:1])
        )

    async def start(self):
        """Begin (again), as a broker that starts does."""
        self.read_records()
        self.rules = Rules(self.paths, self.log)
        self.rules.notify = lambda title, text, **_: self.told.append((title, text))
        self.decider = Decider(
            rules=self.rules,
            records=lambda: self.records,
            running=lambda: self.leases,
            log=self.log,
            asker=self.person,
            pending_records=lambda: self.pending_records,
            locked=lambda _request, *, begins: "",
            last_question=self.last_question,
        )
        self.rules.tightened = self.decider.cut_denied
        await self.rules.start()

    async def reload(self):
        """Read rules and records again, as the broker does when a file has changed."""
        self.read_records()
        await self.rules.reload()
        await self.decider.decide_again()
        self.reloaded.set()
        self.reloaded = trio.Event()

    async def follow(self, nursery):
        """Do so automatically whenever a file has changed."""
        await nursery.start(follow_files, self.paths, self.rules, self.reload)

    async def change(self, name, text):
        """Write a file and have it read."""
        self.write(name, text)
        await self.reload()

    def request(self, service="t.Ask", lease=WORK, **more):
        return Request(lease=lease, service=service, **more)

    async def once(self, service="t.Ask", **more):
        """Ask for something that is over at once; returns its target."""
        async with self.decider.permit(self.request(service, **more)) as permit:
            return permit.target

    def events(self, *kinds):
        with open_log(self.path / "audit.sqlite") as log:
            return [row.fields() for row in log.find(Filters(kinds=kinds))]

    def decisions(self):
        """Verdict, how it came about, and line of each decision."""
        return [
            (
                e["verdict"],
                e.get("answered_by") or e.get("outcome", ""),
                e.get("rule", "").rpartition("/")[2],
            )
            for e in self.events("decision")
        ]


@asynccontextmanager
async def rulebook(rules="", *, start=True, work=None):
    """One whose ``50-test.policy`` has these lines; ``work``: the record of that name."""
    with short_directory() as path:
        async with journal(path) as log:
            book = Rulebook(path, log)
            if rules:
                book.write("50-test.policy", rules)
            if start:
                await book.start()
            if work is not None:
                book.write_record("work", work)
                await book.reload()
            yield book
