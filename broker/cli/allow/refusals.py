"""Read refusals by rules from the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

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

    @property
    def what(self) -> str:
        """The refused call as the user reads it."""
        target = shown_target(self.target)
        words = f"{self.service}: {self.sandbox} → {target or 'no target'}"
        return printable(words, 200)


def last_refusals(most: int) -> list[RefusedCall]:
    """Return the last refusals by rules, newest first.  Raises SetupError."""
    with open_log(offline_paths().audit) as log:
        found = log.find(_DENIED, last=most, newest_first=True)
        return [_refusal(one) for one in found]


async def refusals_from_now(log: Log) -> AsyncIterator[RefusedCall]:
    """Yield refusals by rules that are recorded from now on."""
    async for found in log.follow(_DENIED, after=log.newest()):
        yield _refusal(found)


def _refusal(found: Found) -> RefusedCall:
    fields = found.fields()
    return RefusedCall(
        found.sequence, found.sandbox, _text(fields, "service"), _text(fields, "target")
    )


def _text(fields: Mapping[str, object], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""
