"""Whether a sandbox may: its record and the rules together.

The broker and every tool of ``brokerctl policy`` ask ``decide``, so that a tool
cannot give another answer than the broker.  A call is permitted where the
record of its source lets it ask and the rules grant it; the stricter of both
holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from policy.records.model import RecordSet
from policy.rules import record_gate
from policy.rules.checks import SERVICES
from policy.rules.engine import PolicyAnswer, PolicyCall
from policy.rules.world import ADMIN_NAMES

PERSON = frozenset({"you", "me", "viewer"})
"""Aliases of ``@adminvm``, the viewer and its person."""


@dataclass(frozen=True)
class Verdict:
    """The answer to a call, and what each side says.

    ``record`` is None where no records are known (a world from a file), and for a call
    of the user's own.
    ``answer`` is both together: the record's deny, or the rules' answer, which
    is an ask where the record demands one.
    """

    record: record_gate.RecordDecision | None
    answer: PolicyAnswer

    @property
    def refused_by_record(self) -> bool:
        """Whether the record denies, whatever the rules say."""
        return self.record is not None and not self.record.allowed

    @property
    def where(self) -> str:
        """The line that decided: the record's for its deny, or else the rule's."""
        if self.record is not None and self.refused_by_record:
            return self.record.where
        return self.answer.where


@dataclass(frozen=True)
class Sandboxes:
    """The records, and of which record each source of a call is.

    ``record_of`` names the record of sandboxes that are not called as it is
    (disposables); all others have a record of their own name.
    """

    records: RecordSet
    record_of: Mapping[str, str]

    def request(self, call: PolicyCall) -> record_gate.RecordRequest:
        """Return the request to the record of a call's source."""
        record = self.record_of.get(call.source, call.source)
        return record_gate.RecordRequest(call.source, record, call.service)

    def decide(self, call: PolicyCall, rules: Callable[[], PolicyAnswer]) -> Verdict:
        """Return the verdict on a call, as ``decide`` does.

        The user has no record, so the rules alone decide the user's own calls.
        """
        if call.source in ADMIN_NAMES:
            return Verdict(None, rules())
        return decide(self.records, self.request(call), rules)


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
    return Verdict(record, record_gate.stricter(records, request, rules()))


def canonical_service(word: str) -> str:
    """Return the full name of a service: ``display`` is ``vitrail.Display``.

    A word that names no service of Vitrail's is returned as it is.
    """
    known = {service.lower(): service for service in SERVICES}
    lower = word.lower()
    return known.get(lower) or known.get(f"vitrail.{lower}") or word


def canonical_target(word: str) -> str:
    """Return ``@adminvm`` for the words by which people mean themselves."""
    return "@adminvm" if word.lower() in PERSON else word
