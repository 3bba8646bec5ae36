"""The records in force as messages, for a client that does not read their files.

What the client has is the set in force, whatever has become of the files since.  Only
what differs is sent.

The authority encodes them; host and viewer decode them.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy.errors import Problem
from policy.records.model import Record


@dataclass(frozen=True, slots=True)
class RecordEntry:
    """The record of a name, and the problem of its file; one may be missing."""

    record: Record | None
    problem: Problem | None
