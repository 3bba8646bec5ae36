"""Fields that services of records and of the user's desktop have, and their reader.

The viewer has of it the default number of calls; the processes that read the files read
by this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from policy import limits
from policy.records.field_types import (
    REFUSED,
    Argument,
    Complain,
    Field,
    Path,
    Whole,
    Words,
)
from policy.suggestions import did_you_mean

_WORDS = "an array of 1 to 256 strings: program and arguments"
COMMAND = Field(
    "command",
    Words(Argument(), _WORDS, 1, 256, max_bytes=limits.SERVICE_COMMAND_BYTES),
    "The program and its arguments; the argument of the call is appended to them.",
    required=True,
)
DEFAULT_CALLS = 16
CONCURRENT = Field("concurrent", Whole(1, 64), "Simultaneous calls.", DEFAULT_CALLS)
"""At most ``broker.core.limits.CALLS_PER_SANDBOX``."""


def take_fields(
    fields: Sequence[Field], table: object, path: Path, complain: Complain
) -> dict[str, Any] | None:
    """Return the clean values of a table, with defaults; None after a complaint."""
    by_key = {field.key: field for field in fields}
    known = ", ".join(by_key)
    if not isinstance(table, Mapping):
        complain(path, "a service must be a table", known, "")
        return None
    values = {f.key: f.default for f in fields if not f.required}
    for key, value in table.items():
        if key in by_key:
            values[key] = by_key[key].kind.take(value, (*path, key), complain)
            continue
        message, hint = f"unknown key '{key[:60]}'", did_you_mean(key, by_key)
        complain((*path, key), message, known, hint)
        values[key] = REFUSED
    if missing := [f.key for f in fields if f.key not in values]:
        complain(path, f"'{missing[0]}' is missing", known, "")
    return None if missing or REFUSED in values.values() else values
