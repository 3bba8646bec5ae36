"""Calls as users write them for the tools, and who makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from policy.names import ADMIN_NAMES
from policy.records.model import RecordSet
from policy.rules import record_gate
from policy.rules.checks import SERVICES
from policy.rules.engine import PolicyAnswer, PolicyCall
from policy.rules.verdict import Verdict, decide

PERSON = frozenset({"you", "me"})
"""Words for ``@adminvm``, the user; no new record has such a name."""


@dataclass(frozen=True)
class Sandboxes:
    """The records, and of which record each source of a call is.

    ``record_of`` names the record of sandboxes that are not called as it is
    (disposables); all others have a record of the same name.
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
