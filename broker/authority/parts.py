"""The authority of a broker, with its log and with the user whom it asks."""

from __future__ import annotations

import os
from dataclasses import dataclass

import trio

from broker.authority.log_runtime import LogRuntime
from broker.authority.policy_authority import HostAuthority, PolicyAuthority
from broker.authority.questions.desktop import Desktop
from broker.authority.questions.prompts import Questions
from broker.authority.reachable_files import replaced_settings
from broker.authority.records.sandboxes import problem_lines
from broker.core.authority_report import AuthorityReport, PolicyStatus
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.helpers.compositor_socket import find_compositor

_PROBLEM_CHARACTERS = 1000


@dataclass(frozen=True)
class AuthorityParts:
    """The log, the decider, the questions and the desktop of one authority."""

    log: LogRuntime
    authority: PolicyAuthority
    questions: Questions
    desktop: Desktop
    paths: Paths

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the authority's tasks until cancelled.

        ``started`` with rules in force.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.questions.run)
            nursery.start_soon(self.desktop.run)
            await nursery.start(self.authority.run)
            task_status.started()

    def report(self, pid: int) -> AuthorityReport:
        """Return the authority's part of ``brokerctl status``; ``pid`` is its process."""
        return self.log.report(
            pid, self.questions.agent_pid, self._policy(), self._waiting()
        )

    def _policy(self) -> PolicyStatus:
        """Return the status of rules and records."""
        rules, records = self.authority.rules, self.authority.records
        host = isinstance(self.authority, HostAuthority)
        found = [] if host else rules.lines()
        lines = [printable(line, _PROBLEM_CHARACTERS) for line in found]
        return PolicyStatus(
            digest=records.digest if host else rules.digest,
            records=records.digest,
            rules=len(rules.now.rules.rules),
            kept=rules.now.kept,
            since=rules.since,
            denies_all=bool(rules.now.rules.problems),
            problems=[*lines, *problem_lines(records)],
        )

    def _waiting(self) -> list[str]:
        """Return warnings about the lockdown and questions that wait."""
        found = [*self.authority.lockdown.warnings(), *replaced_settings(self.paths)]
        if waiting := len(self.questions.pending()):
            verb = "question waits" if waiting == 1 else "questions wait"
            more = "run 'brokerctl pending'"
            found.append(f"{waiting} {verb} for your answer: {more}")
        return found


def make_authority(paths: Paths, log: LogRuntime, role: str) -> AuthorityParts:
    """Create the authority that records in this log."""
    desktop = Desktop(log.starter, log.journal.record_of)
    questions = Questions(
        paths=paths,
        log=log.journal,
        compositor=find_compositor,
        starter=log.starter,
        screen_reader=bool(os.environ.get("DBUS_SESSION_BUS_ADDRESS")),
        notify=desktop.notify,
        last=log.store.last_question,
    )
    kind = HostAuthority if role == "host" else PolicyAuthority
    authority = kind(
        paths=paths,
        log=log.journal,
        source=log.records,
        asker=questions,
        notify=desktop.notify,
        last_question=log.store.last_question,
    )
    log.records.tightened = authority.decider.cut_denied
    return AuthorityParts(log, authority, questions, desktop, paths)
