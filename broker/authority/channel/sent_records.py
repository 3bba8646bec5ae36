"""The records that a client has, and the ones that it needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import msgspec

from broker.authority.channel.record_messages import RecordEntry
from broker.ipc.audit.log_rows import RecordChanged
from policy.records.model import RecordSet


class SentRecords:
    """The records that a client has, as the authority sent them."""

    def __init__(self) -> None:
        self._sent: dict[str, RecordEntry] = {}

    def update(self, records: RecordSet) -> Iterator[RecordChanged]:
        """Yield the messages that bring a client's records up to date."""
        for name in self._sent.keys() - records.records.keys() - records.broken.keys():
            del self._sent[name]
            yield RecordChanged(name, None)
        for name in sorted({*records.records, *records.broken}):
            entry = RecordEntry(records.records.get(name), records.broken.get(name))
            if self._sent.get(name) != entry:
                self._sent[name] = entry
                yield RecordChanged(name, _encode(entry))


def _encode(entry: RecordEntry) -> bytes:
    """Return an entry as JSON, less the text and the values, which only tools show."""
    if entry.record is not None:
        bare = replace(entry.record, values={}, spots={}, text="")
        entry = replace(entry, record=bare)
    # A path may hold any byte, which msgspec's own JSON does not.
    return json.dumps(msgspec.to_builtins(entry, enc_hook=_plain)).encode()


def _plain(value: object) -> object:
    if isinstance(value, MappingProxyType):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value).__name__)
