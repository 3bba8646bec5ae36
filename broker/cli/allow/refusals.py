"""Read refusals by rules from the audit log."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from broker.cli.audit.events import shown_target
from broker.cli.run.connect import offline_paths
from broker.core.escape import printable
from broker.ipc.audit.filters import Filters, Found
from broker.ipc.audit.query import Log, open_log

_DENIED = Filters(kinds=("decision",), verdicts=("deny",))


@dataclass(frozen=True)
class RefusedCall:
    """A refused call; ``sandbox`` asked for it."""

    sequence: int
    sandbox: str
    service: str
    target: str
    argument: str = ""
    object: str = ""

    @property
    def call(self) -> tuple[str, ...]:
        """The fields that distinguish the call from others."""
        return (self.sandbox, self.service, self.target, self.argument, self.object)

    @property
    def what(self) -> str:
        """The refused call as the user reads it."""
        target = shown_target(self.target) or "no target"
        details = " ".join(filter(None, (self.argument, self.object)))
        text = f"{self.service}: {self.sandbox} → {target}"
        return printable(f"{text} ({details})" if details else text, 200)


def last_refusals(most: int) -> list[RefusedCall]:
    """Return the last refusals by rules, newest first.  Raises SetupError."""
    with open_log(offline_paths().audit) as log:
        events = filter(_is_refusal, log.find(_DENIED, newest_first=True))
        return [_refusal(event) for event in islice(events, most)]


def refusals_within(seconds: float) -> list[RefusedCall]:
    """Return the newest refusal of each call that rules refused lately, newest first.

    Raises SetupError.
    """
    since = time.time_ns() - int(seconds * 1e9)
    with open_log(offline_paths().audit) as log:
        calls = dict[tuple[str, ...], RefusedCall]()
        filters = replace(_DENIED, since_ns=since)
        for event in filter(_is_refusal, log.find(filters, newest_first=True)):
            refusal = _refusal(event)
            calls.setdefault(refusal.call, refusal)
        return list(calls.values())


async def refusals_from_now(log: Log) -> AsyncIterator[RefusedCall]:
    """Yield refusals by rules that are recorded from now on."""
    async for event in log.follow(_DENIED, after=log.newest()):
        if _is_refusal(event):
            yield _refusal(event)


def _is_refusal(event: Found) -> bool:
    """Return whether a call was refused; a permit that was cut is denied, too."""
    return event.fields().get("outcome") != "cut"


def _refusal(found: Found) -> RefusedCall:
    fields = found.fields()
    detail = fields.get("detail")
    details = detail if isinstance(detail, dict) else {}
    return RefusedCall(
        found.sequence,
        found.sandbox,
        _text(fields, "service"),
        # As the sandbox wrote it: a limit's event also has the target of the rule.
        _text(details, "asked") or _text(fields, "target"),
        _text(fields, "argument"),
        _text(fields, "object"),
    )


def _text(fields: Mapping[str, object], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""
