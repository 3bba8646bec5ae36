"""A client's copy of the records in force, which only the authority sends."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import msgspec

from broker.authority.channel.record_messages import RecordEntry
from broker.core.errors import InternalError
from broker.ipc.audit import log_rows as m
from policy.records.model import RecordSet


class RecordCopy:
    """A client's copy of the records in force."""

    def __init__(self) -> None:
        self._entries: dict[str, RecordEntry] = {}
        self._changes: list[m.RecordChanged] = []
        self.now = RecordSet(MappingProxyType({}), MappingProxyType({}), (), "")
        """The copy: without the problems that are shown for a whole set."""

    def take(self, change: m.RecordChanged) -> None:
        """Keep a change for ``follow``."""
        self._changes.append(change)

    def follow(self, digest: str) -> None:
        """Apply the received changes; check that the set has ``digest``.

        Raises InternalError.
        """
        changes, self._changes = self._changes, []
        for change in changes:
            if change.content is None:
                self._entries.pop(change.name, None)
            else:
                self._entries[change.name] = _decode(change.content)
        found = self._entries.items()
        self.now = RecordSet(
            MappingProxyType({n: e.record for n, e in found if e.record is not None}),
            MappingProxyType({n: e.problem for n, e in found if e.problem is not None}),
            (),
            digest,
        )


def _decode(content: bytes) -> RecordEntry:
    try:
        return msgspec.convert(json.loads(content), RecordEntry, dec_hook=_typed)
    except (ValueError, RecursionError) as error:
        raise InternalError(f"the authority sent an invalid record: {error}") from error


def _typed(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind.__name__)
