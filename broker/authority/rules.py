"""The rules in force in a running broker.

Read at the start and whenever a file changes, always the whole set.  A set
without a mistake takes the place of the other in one assignment, after the log
has it, and is kept on disk.  A set with one changes nothing: the last good one
decides on, over a restart too; where there never was one, everything is denied.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.file_watch import Seen, open_watch
from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.core.notify import Notify
from broker.core.paths import Paths
from broker.core.stderr_log import log_exception, log_stderr
from broker.ipc.audit import schema
from broker.ipc.in_thread import NoThreadError, in_thread
from policy.errors import Problem
from policy.records.loader import FOLDER as RECORDS
from policy.rules.engine import Engine
from policy.rules.last_good import InForce, choose, keep, kept
from policy.rules.rulefiles import FOLDER as RULES
from policy.rules.rulefiles import SHIPPED, load_rules, rule_path
from policy.rules.ruleset import RuleSet

_SHOWN = 64
_CHARACTERS = 200


def _nothing_live() -> None:
    """Nothing is permitted by the rules yet."""


def _silent(title: str, text: str, *, sandbox: str = "") -> None:
    """No user can be notified."""
    del title, text, sandbox


# Rules are kept as a whole, records one by one. One wrong line may come before any
# other, so a set of rules with a mistake is not used at all. A record is about one
# sandbox, so a mistake in it affects no other: running sandboxes keep its previous
# content; a user who starts a sandbox from it sees the error. The other reading, that a
# record with a typo denies at once, would cut the windows of a sandbox while a user
# edits its colour. Rules and records are kept on disk, because machines outlive a
# broker that was killed.
class Rules:
    """The set in force, and the mistakes of the one in the files."""

    def __init__(
        self, paths: Paths, log: EventLog, *, shipped: Path | None = SHIPPED
    ) -> None:
        self._paths = paths
        self._log = log
        self._shipped = shipped
        self._kept_at = paths.state / "policy" / "rules.json"
        self._changing = trio.Lock()
        self._started = False
        self.now = choose(RuleSet((), (), "", ()), None)
        self.engine = Engine(self.now.rules)
        self.pending: Engine | None = None
        """Rules that are read and not on record yet.  They take away already."""
        self.tightened: Callable[[], None] = _nothing_live
        """Called when ``pending`` is set: cut the operations that it denies."""
        self.problems: tuple[Problem, ...] = ()
        """Of the set in the files, which is then not the one in force."""
        self.files: tuple[str, ...] = ()
        """All that were read last, also those that were included."""
        self.unkept = ""
        """Why the set in force could not be written down."""
        self.since = time.time()
        self.notify: Notify = _silent

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the meaning of the rules in force."""
        return self.now.rules.digest

    async def start(self) -> None:
        """Read the files for the first time.  Raises UpstreamError.

        Until then no rule is in force, so everything is denied.  The set that comes
        into force is recorded in the audit log and kept in a file.
        """
        saved = await in_thread(kept, self._kept_at)
        if isinstance(saved, Problem):
            log_stderr(f"vitrail: cannot use the saved rules: {saved.first_line()}")
            saved = None
        async with self._changing:
            await self._take(await self._read(), saved)

    async def reload(self) -> bool:
        """Read the files again; return whether other rules are in force now.

        Raises UpstreamError when that could not be recorded: then the old ones are in
        force still, and everything that the new ones deny is denied, too.  A set that
        comes into force is recorded in the audit log and kept in a file.
        """
        # Read inside: an older reading must never come into force later.
        async with self._changing:
            return await self._take(await self._read(), None)

    async def _read(self) -> RuleSet:
        """Read the rules' files."""
        paths = rule_path(self._paths.runtime, self._paths.config)
        # In a thread: ten thousand rules are half a second's work.
        return await in_thread(partial(load_rules, paths, shipped=self._shipped))

    async def _take(self, read: RuleSet, saved: RuleSet | None) -> bool:
        """Record a set of rules and put it in force.

        A set without problems is also kept in a file, for a restart.
        """
        chosen = self._choose(read, saved)
        fresh = not self._started or chosen.rules.digest != self.digest
        moved = chosen.rules.rules != self.now.rules.rules
        if fresh:
            if self._started:
                # A stricter set must not wait for the log, nor fail with it: a full
                # disk, which a sandbox may have filled, would keep alive operations
                # that the user has just denied.  New permissions do wait.
                # guard: a revocation does not wait for the log
                self.pending = Engine(chosen.rules)
                # guard: a denied stream is cut before it is recorded
                self.tightened()
            # guard: rules recorded before they hold
            await self._log.require(_loaded(chosen))
            self.since = time.time()
        self.pending = None
        # Nothing is awaited between here and the end of the swap.
        self._started, self.files = True, read.files
        self.problems, told = read.problems, self.problems
        self.now = chosen
        if fresh or moved:
            self.engine = Engine(chosen.rules)
        if read.problems and read.problems != told:
            await self._refuse(chosen)
        elif not read.problems and (fresh or moved):
            await self._keep(read)
        return fresh

    def _choose(self, read: RuleSet, saved: RuleSet | None) -> InForce:
        """Choose the set in force; a set with a mistake changes nothing."""
        good = self._started and not self.now.rules.problems
        # guard: a broken set is not taken
        if read.problems and good:
            return self.now._replace(why=read.problems[0])
        return choose(read, saved)

    async def _refuse(self, chosen: InForce) -> None:
        """Record that the files' rules have mistakes and are not in force."""
        lines = [problem.first_line() for problem in self.problems]
        await self._log.note(
            schema.PolicyRefused(
                problems=_shown(lines),
                policy=chosen.rules.digest,
                reason=self.standing(),
            )
        )
        self.notify(
            "Vitrail: the rules have an error",
            f"{printable(lines[0], 300)}\n{self.standing()}",
        )

    def standing(self) -> str:
        """Describe the rules in force while the files have errors; else empty."""
        if not self.problems:
            return ""
        if self.now.rules.problems:
            return "there is no valid set of rules: everything is denied until the error is corrected"
        return (
            "the previous rules remain in force, so permissions that the change removes "
            "are still granted"
        )

    async def _keep(self, rules: RuleSet) -> None:
        """Store a copy of the rules in force, for a restart with broken files."""
        self.unkept = ""
        try:
            self._kept_at.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await in_thread(keep, rules, self._kept_at)
        except (OSError, NoThreadError) as error:
            self.unkept = f"cannot save the rules in force for a restart: {error}"
            log_stderr(f"vitrail: {self.unkept}")

    def lines(self) -> list[str]:
        """The problems, for ``brokerctl status``; none when all is well."""
        found = [problem.first_line() for problem in self.problems[:_SHOWN]]
        if found:
            found.append(self.standing())
        return [*found, *([self.unkept] if self.unkept else [])]


def _loaded(chosen: InForce) -> schema.PolicyLoaded:
    return schema.PolicyLoaded(
        policy=chosen.rules.digest,
        files=_shown(list(chosen.rules.files)),
        rules=len(chosen.rules.rules),
        outcome="kept" if chosen.kept else "denies all" if chosen.why else "read",
        detail={"what": "rules"},
    )


def _shown(lines: list[str]) -> list[str]:
    found = [printable(line, _CHARACTERS) for line in lines[:_SHOWN]]
    beyond = len(lines) - _SHOWN
    return [*found, f"and {beyond} more"] if beyond > 0 else found


async def follow_files(
    paths: Paths,
    rules: Rules,
    changed: Callable[[], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call ``changed`` whenever a file of rules or records changes, until cancelled.

    ``changed`` reads them; when it raises an error it is called
    again later.
    """
    bases = (paths.runtime, *paths.config)
    roots = [base / folder for base in bases for folder in (RULES, RECORDS)]
    async with open_watch(roots, lambda: rules.files) as watch:
        # Not what a look says now: between the first reading and this moment
        # a file may have changed, so the first thing is to read once more.
        seen: Seen = frozenset()
        told = ""
        task_status.started()
        while True:
            seen = await watch.wait_changed(seen)
            try:
                await changed()
                told = ""
            except Exception as error:  # noqa: BLE001 -- it must not end every sandbox
                # The log is full, say: the old rules stay in force, and that is
                # reported once.
                why = str(error) or repr(error)
                if why != told and not isinstance(error, UpstreamError):
                    log_exception(error)
                if why != told:
                    log_stderr(f"vitrail: changed rules are not in force yet: {why}")
                told, seen = why, frozenset()
                await trio.sleep(limits.RULES_LOOK_SECONDS)
