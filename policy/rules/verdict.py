"""Whether a sandbox may: its record and the rules together.

The broker and every tool of ``brokerctl policy`` ask ``decide``, so that a tool
cannot give another answer than the broker.  A call is permitted where the
record of its source lets it ask and the rules grant it; the stricter of both
holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from policy.records.model import RecordSet
from policy.rules import record_gate
from policy.rules.engine import EngineStep, PolicyAnswer

_DELIVERED = frozenset({"vitrail.FileCopy", "vitrail.OpenFile", "vitrail.OpenURL"})
"""Services that a program of the agent in the target serves."""


@dataclass(frozen=True)
class Verdict:
    """The answer to a call, and what each side says.

    ``record`` is None if no records are known (a world from a file), and for a call
    of the user's own.
    ``answer`` is both together: the record's deny, or the rules' answer, which
    is an ask where the record demands one.
    """

    record: record_gate.RecordDecision | None
    answer: PolicyAnswer

    @property
    def refused_by_record(self) -> bool:
        """Return whether the record denies, whatever the rules say."""
        return self.record is not None and not self.record.allowed

    @property
    def where(self) -> str:
        """The line that decided: the record's for its deny, or else the rule's."""
        if self.record is not None and self.refused_by_record:
            return self.record.where
        return self.answer.where


def decide(
    records: RecordSet,
    request: record_gate.RecordRequest,
    rules: Callable[[], PolicyAnswer],
) -> Verdict:
    """Return the verdict of both; ``rules`` is called unless the record denies."""
    record = record_gate.record_allows(records, request)
    # guard: the record is asked
    if not record.allowed:
        return Verdict(record, PolicyAnswer("deny", record.reason, notify=True))
    return Verdict(
        record, _offered(records, request, _stricter(records, request, rules()))
    )


def _offered(
    records: RecordSet, request: record_gate.RecordRequest, answer: PolicyAnswer
) -> PolicyAnswer:
    """Return an ask without the targets that cannot take a file or an address.

    A program of Vitrail's agent takes them, which boxes lack.  A disposable record
    and a new sandbox of it are the same target; the second is offered.
    """
    if answer.verdict != "ask" or request.service not in _DELIVERED:
        return answer
    targets = tuple(
        target
        for target in answer.targets
        if _takes(records, target) and f"@dispvm:{target}" not in answer.targets
    )
    if not targets:
        reason = f"{answer.where} asks, but no target can take files or addresses: a box or container has no agent that would"
        return PolicyAnswer("deny", reason, answer.rule, notify=answer.notify)
    default = answer.default_target
    if default is not None and default not in targets:
        default = f"@dispvm:{default}" if f"@dispvm:{default}" in targets else None
    return answer._replace(targets=targets, default_target=default)


def _takes(records: RecordSet, target: str) -> bool:
    """Return whether a target has the agent, or none of these records knows it."""
    name = target.removeprefix("@dispvm:")
    # A running disposable has the name of its record, and a number.
    record = records.records.get(name) or records.records.get(name.rpartition("-")[0])
    return record is None or not record.host.launch.kind.box


# A record's "ask" and a rule's "allow" are an ask. If record and rule both have a
# setting, the stricter wins, and of deny, ask and allow the ask is the stricter of
# these two. It was refused for a while: safe, but the user was not asked although the
# record requires it, and the workaround was to loosen one of the two. So the user is
# asked; the rule decides the target and the limits, and the event names both lines. A
# record that becomes `ask` while an allowed recording runs is asked about once, as a
# rule would be.
def _stricter(
    records: RecordSet, request: record_gate.RecordRequest, answer: PolicyAnswer
) -> PolicyAnswer:
    """Return the rules' answer, made as strict as the record is.

    A record with ``microphone = "ask"`` makes
    an ask of an allow: where it may go is what the rule says, and the rule's
    limits hold.
    """
    record = records.records.get(request.record)
    if (
        request.service != record_gate.MICROPHONE
        or answer.verdict != "allow"
        or record is None
    ):
        return answer
    if record.viewer.audio.microphone == "allow":
        return answer
    where = record.where(record_gate.MICROPHONE_KEY)
    targets = () if answer.target is None else (answer.target,)
    return answer._replace(
        verdict="ask",
        reason=f"{answer.reason}, and the record asks: {where}",
        target=None,
        targets=targets,
        default_target=answer.target,
        trace=(*answer.trace, EngineStep(record_gate.MICROPHONE_KEY, "ask", where)),
    )
