"""Services in a record: ``[services.NAME]``, the programs that other sandboxes call.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policy import limits
from policy.records.field_types import (
    REFUSED,
    Complain,
    Field,
    Path,
    Pattern,
    SocketPath,
    refuse,
)
from policy.records.model import CalledService
from policy.services.fields import COMMAND, CONCURRENT, take_fields

SERVICE_NAME = Pattern(
    "1 to 64 letters, digits, '.', '_' and '-', not beginning with 'vitrail.'",
    "(?![Vv][Ii][Tt][Rr][Aa][Ii][Ll][.])[A-Za-z0-9][A-Za-z0-9._-]*",
    64,
)
"""The same rule as ``ipc.guest.file_requests``; the broker's own have the prefix."""
_USER = Pattern("a user's name, as in passwd(5)", "[a-z_][a-z0-9_-]*", 32)
_PLACE = SocketPath(limits.BIND_PATH_BYTES)
FIELDS = (
    COMMAND,
    Field("user", _USER, "The guest's user that runs the program.", ""),
    Field(
        "working_directory", _PLACE, "Working directory; default: the user's home.", ""
    ),
    CONCURRENT,
)


@dataclass(frozen=True)
class ServiceTables:
    """Tables by the name of a service; the clean value is a tuple of ``CalledService``."""

    words: str = f"tables [services.NAME] with {', '.join(f.key for f in FIELDS)}"

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate the tables of services; see ``Kind``."""
        if not isinstance(value, Mapping) or len(value) > limits.SERVICES:
            return refuse(self, value, path, complain)
        made = []
        for name, table in value.items():
            # guard: a service in a record is not the broker's own
            good = SERVICE_NAME.take(name, (*path, name), complain) is not REFUSED
            values = take_fields(FIELDS, table, (*path, name), complain)
            made.append(CalledService(name, **values) if good and values else None)
        return REFUSED if None in made else tuple(made)
