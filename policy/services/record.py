"""Services in a record: ``[services.NAME]``, the programs that other sandboxes call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policy import limits
from policy.records.field_types import (
    REFUSED,
    Argument,
    Complain,
    Field,
    Path,
    Pattern,
    SocketPath,
    Whole,
    Words,
    refuse,
)
from policy.records.model import CalledService
from policy.suggestions import did_you_mean

SERVICE_NAME = Pattern(
    "1 to 64 of letters, digits and '._-', without 'vitrail.' at its beginning",
    "(?![Vv][Ii][Tt][Rr][Aa][Ii][Ll][.])[A-Za-z0-9][A-Za-z0-9._-]*",
    64,
)
"""The same rule as ``ipc.guest.file_requests``; the broker's own have the prefix."""
_WORDS = "an array of 1 to 256 strings: program and arguments"
COMMAND = Field(
    "command",
    Words(Argument(), _WORDS, 1, 256, max_bytes=limits.SERVICE_COMMAND_BYTES),
    "Program and arguments; the argument of the call follows them.",
    required=True,
)
DEFAULT_CALLS = 16
CONCURRENT = Field("concurrent", Whole(1, 64), "Calls at one time.", DEFAULT_CALLS)
"""At most ``broker.core.limits.CALLS_PER_SANDBOX``."""
_USER = Pattern("a user's name, as in passwd(5)", "[a-z_][a-z0-9_-]*", 32)
_PLACE = SocketPath(limits.BIND_PATH_BYTES)
FIELDS = (
    COMMAND,
    Field("user", _USER, "The guest's user that it runs as.", ""),
    Field(
        "working_directory", _PLACE, "Where it starts; otherwise its user's home.", ""
    ),
    CONCURRENT,
)


@dataclass(frozen=True)
class ServiceTables:
    """Tables by the name of a service; the clean value is a tuple of ``CalledService``."""

    words: str = f"tables [services.NAME] with {', '.join(f.key for f in FIELDS)}"

    def take(self, value: object, path: Path, log_stderr: Complain) -> object:
        """See ``Kind``."""
        if not isinstance(value, Mapping) or len(value) > limits.SERVICES:
            return refuse(self, value, path, log_stderr)
        made = []
        for name, table in value.items():
            # guard: a service in a record is not the broker's own
            good = SERVICE_NAME.take(name, (*path, name), log_stderr) is not REFUSED
            values = take_fields(FIELDS, table, (*path, name), log_stderr)
            made.append(CalledService(name, **values) if good and values else None)
        return REFUSED if None in made else tuple(made)


def take_fields(
    fields: Sequence[Field], table: object, path: Path, log_stderr: Complain
) -> dict[str, Any] | None:
    """Return the clean values of a table, with defaults; None after a complaint."""
    by_key = {field.key: field for field in fields}
    known = ", ".join(by_key)
    if not isinstance(table, Mapping):
        log_stderr(path, "a service is a table", known, "")
        return None
    values = {f.key: f.default for f in fields if not f.required}
    for key, value in table.items():
        if key in by_key:
            values[key] = by_key[key].kind.take(value, (*path, key), log_stderr)
            continue
        message, hint = f"unknown key '{key[:60]}'", did_you_mean(key, by_key)
        log_stderr((*path, key), message, known, hint)
        values[key] = REFUSED
    if missing := [f.key for f in fields if f.key not in values]:
        log_stderr(path, f"'{missing[0]}' is missing", known, "")
    return None if missing or REFUSED in values.values() else values
