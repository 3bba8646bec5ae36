"""Rules that would allow a refused call, tested before they are offered.

Nothing here writes.  The line names the two sandboxes of the refused call, so it allows
that call and its like; what else it allows is compared over all classes of calls.
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from broker.cli.audit.events import shown_target
from broker.cli.policy.install import Sets, sets_with
from broker.cli.policy.recorded_decisions import event
from broker.cli.run.connect import offline_paths
from broker.cli.sandboxes.settings import change_for
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.paths import find_paths
from broker.core.services import OPEN_FILE, OPEN_URL
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from policy import limits
from policy.destinations import LOOKUP, NETWORK
from policy.errors import Problem
from policy.files import read_file
from policy.names import ADMIN_NAMES
from policy.rules.engine import Engine, PolicyCall
from policy.rules.rule import ONCE_FILE
from policy.rules.rulefiles import FOLDER
from policy.rules.verdict import Verdict
from policy.rules.world import World, world_of
from policy.tools.diff import Change, TooManyError, diff
from policy.tools.explain import explain
from policy.tools.recorded import Recorded

FILE = "10-allowed.policy"
"""Before the user's other files, so that an exact line is not hidden by a wide one."""
ONCE_SECONDS = 60
_TIMES = 1000
_HEAD = """\
# 'brokerctl allow' wrote each of these lines after a refusal.
# SERVICE  ARGUMENT  SOURCE  TARGET  ACTION  [key=value ...]
"""
_ACTION = re.compile(r" (allow|ask)( .*)?$")


@dataclass(frozen=True)
class RuleOffer:
    """A refused call, and the line that allows it.

    ``sequence`` is the refusal's number in the log, ``line`` a rule that has been tried:
    with it in ``file`` the decision is no longer deny.  It names the records of
    disposables, whose own names do not return; ``running`` has these names, if all run.
    """

    sequence: int
    call: PolicyCall
    reason: str
    rule: str
    line: str
    world: World
    base: Path
    running: str = ""

    @property
    def file(self) -> Path:
        """The user's file to which the line is added."""
        return self.base / FOLDER / FILE

    @property
    def asking(self) -> str:
        """The line that asks about each call."""
        found = _ACTION.search(self.line)
        if found is None or found[1] == "ask":
            return self.line
        return f"{self.line[: found.start()]} ask{found[2] or ''}"

    @property
    def once(self) -> str:
        """The line that allows one call; it is in force for ONCE_SECONDS.

        A broker counts the calls of each meaning of a line, also after the line has gone,
        so each time is another one.
        """
        seconds = ONCE_SECONDS + secrets.randbelow(_TIMES)
        return f"{self.running or self.line} rate=1/{seconds}s"

    @property
    def what(self) -> str:
        """The refused call as the user reads it."""
        return what_of(self.call)

    def content(self, line: str) -> bytes:
        """Return the content of the file with a line added."""
        before = _read(self.file)
        return (before or _HEAD.encode()) + f"{line}\n".encode()

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The classes of calls whose decision the line changes.

        Raises RefusedError if there are too many to compare.
        """
        old, new = sets_with(self.base, _without_once()), _with(self, self.line)
        try:
            return tuple(diff(old.rules, new.rules, world_of(new.records)))
        except TooManyError as error:
            raise RefusedError(
                f"cannot compare the decisions with and without the line: {error}",
                hint="to add the line yourself, run 'brokerctl policy edit "
                f"{self.file.name}'",
            ) from error

    @property
    def others(self) -> tuple[Change, ...]:
        """Return the changes that are about another source or target than the call."""
        sources = _names_of(self.call.source, self.world)
        targets = _names_of(self.call.target or "@default", self.world)
        return tuple(
            change
            for change in self.changes
            if {*change.sources} - sources or {*change.targets} - targets
        )


def what_of(call: PolicyCall) -> str:
    """Return a call as the user reads it."""
    source, target = shown_target(call.source), shown_target(call.target or "no target")
    return printable(f"{call.service}: {source} → {target}", 200)


def offer_for(number: int) -> RuleOffer:
    """Return the offer for a refusal's number in the log.

    Raises RefusedError if no line would allow it: a record or a limit refused.
    """
    base = offline_paths().config[0]
    # A line for one call that has been used up is not the answer to the next one.
    then, known = event(number, limits_of=ONCE_FILE)
    rules = sets_with(base, _without_once()).rules
    found = explain(rules, then.call, known.world)
    verdict = known.decide(found.call, lambda: found.answer)
    _refuse_other_gates(then, verdict, known.world, what_of(found.call))
    if found.flip is None:
        opening = then.call.service in {OPEN_FILE, OPEN_URL} and not then.call.target
        if opening and found.answer.rule is None:
            # Only the user knows what is to open it.
            reason = (
                "a rule needs the sandbox that opens it, as in 'vitrail.OpenURL * "
                "work @default ask target=@dispvm:web'; to add it, run 'brokerctl "
                "policy edit', or for a browser and a viewer 'brokerctl policy "
                "starter'"
            )
        else:
            reason = f"to see why, run 'brokerctl policy explain --event {number}'"
        raise RefusedError(
            f"no single rule would allow the call of event {number}",
            hint=reason,
        )
    rule = found.flip.text + _conditions(then)
    line = _lasting(rule, known.world)
    offer = RuleOffer(
        number,
        found.call,
        then.reason,
        then.rule,
        line,
        known.world,
        base,
        running=rule if _run(found.call, known.world) else "",
    )
    _try(offer)
    return offer


def _names_of(name: str, world: World) -> set[str]:
    """Return the names that mean a sandbox in rules: its own, its record's, or the user's."""
    users = ADMIN_NAMES if name in ADMIN_NAMES else ()
    return {name, _record_of(name, world), *users}


def _conditions(then: Recorded) -> str:
    """Return the conditions of a line that allows this flow or folder only."""
    call = then.call
    conditions = [" write=yes"] if then.write else []
    if call.service == NETWORK and call.protocol not in {None, LOOKUP}:
        conditions += [f" port={call.port}"] if call.port else []
        conditions.append(f" protocol={call.protocol}")
    return "".join(conditions)


def _lasting(line: str, world: World) -> str:
    """Return a line with the records of its disposables: no later one has the same name."""
    columns = line.split(" ")
    columns[2:4] = [_record_of(name, world) for name in columns[2:4]]
    return " ".join(columns)


def _record_of(name: str, world: World) -> str:
    """Return the record of a disposable; the name of another sandbox."""
    domain = world.domains.get(name)
    return name if domain is None else domain.record or name


def _run(call: PolicyCall, world: World) -> bool:
    """Return whether the disposables of a call have not ended."""
    names = [n for n in (call.source, call.target) if _record_of(n, world) != n]
    with open_log(offline_paths().audit) as log:
        for name in names:
            kinds = ("lease.begin", "lease.end")
            events = log.find(Filters((name,), kinds), newest_first=True)
            if (last := next(events, None)) is None or last.kind == "lease.end":
                return False
    return True


def _refuse_other_gates(
    then: Recorded, verdict: Verdict, world: World, label: str
) -> None:
    """Raise RefusedError if rules now allow the call, or if no rule can."""
    if verdict.refused_by_record:
        raise RefusedError(
            f"the record of '{then.call.source}' denies this call; no rule can "
            "allow it",
            where=verdict.where,
            hint="to change the record, run "
            f"'{change_for(then.call.service, then.call.source, world)}'",
        )
    if verdict.answer.verdict != "deny":
        raise RefusedError(
            "no rule was added: the rules already decide "
            f"'{verdict.answer.verdict}' for {label}",
            where=verdict.where,
            hint="repeat the action",
        )


def _try(offer: RuleOffer) -> None:
    """Raise RefusedError unless the line changes the decision when added to its file."""
    made = _with(offer, offer.line)
    if made.rules.problems:
        raise RefusedError(
            "no rule was added, because the rules have an error: "
            f"{made.rules.problems[0].first_line()}",
            hint="to list the errors in the rules, run 'brokerctl policy check'",
        )
    answer = Engine(made.rules).answer(offer.call, offer.world)
    # guard: a line is offered only if it has an effect where it is written
    if answer.verdict == "deny":
        raise RefusedError(
            f"no rule was added: a line in {offer.file.name} would have no effect, "
            f"because {answer.where} precedes it",
            hint="to see why the call is still denied, run 'brokerctl policy "
            f"explain --event {offer.sequence}'",
        )


def _with(offer: RuleOffer, line: str) -> Sets:
    new = {os.path.normpath(offer.file): offer.content(line)}
    return sets_with(offer.base, {**_without_once(), **new})


def once_file() -> Path:
    """The file for a line that allows one call."""
    return find_paths().runtime / FOLDER / ONCE_FILE


def _without_once() -> dict[str, bytes | None]:
    return {os.path.normpath(once_file()): None}


def _read(file: Path) -> bytes:
    if not os.path.lexists(file):
        return b""
    content = read_file(file, check_owner=False, most=limits.RULE_FILE_BYTES)
    if isinstance(content, Problem):
        raise RefusedError(
            content.first_line(), hint="correct the file and run the command again"
        )
    if content and not content.endswith(b"\n"):
        content += b"\n"
    return content
