"""``audit.toml``: how the log is kept.  All of it may be left out.

mode = "required"          # or "best-effort": an operation that cannot be
                           # recorded happens nevertheless, counted and reported
names = "keep"             # or "hash", "drop": addresses, files, devices
clipboard_digest = false   # a keyed hash of pasted content
checkpoint_events = 1000   # published after so many events,
checkpoint_seconds = 10.0  # or so long after the first of them
evolve_seconds = 900.0     # how long one signing key is in force
journald = true            # checkpoints go to the journal, if there is one
keep = ""                  # remove bodies older than this, as "90d"
max_megabytes = 1024       # and the oldest when the log is larger

The authority reads the file to obey it, a session child to report its mistakes,
``brokerctl audit gc`` for its limits.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from broker.authority.audit.names import Names
from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError
from broker.core.paths import read_config

_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_SPAN = re.compile(r"([1-9][0-9]{0,5})([hdwy])")


class AuditMode(enum.StrEnum):
    """Behaviour when an event cannot be recorded."""

    REQUIRED = "required"
    BEST_EFFORT = "best-effort"


class AuditSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of ``audit.toml``; the module's docstring explains the keys."""

    mode: AuditMode = AuditMode.REQUIRED
    names: Names = Names.KEEP
    clipboard_digest: bool = False
    checkpoint_events: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    checkpoint_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 10.0
    evolve_seconds: Annotated[float, msgspec.Meta(ge=1, le=86400)] = 900.0
    journald: bool = True
    keep: str = ""
    max_megabytes: Annotated[int, msgspec.Meta(ge=8, le=1 << 20)] = 1024

    def __post_init__(self) -> None:
        """Refuse a span that is not one.  Raises ValueError."""
        if self.keep:
            take_span(self.keep)

    @property
    def keep_seconds(self) -> int | None:
        """How long bodies are kept; None: for as long as there is room."""
        return take_span(self.keep) if self.keep else None


def take_span(text: str) -> int:
    """Return the seconds of ``36h``, ``90d``, ``12w`` or ``1y``.  Raises ValueError."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError(
            f"'{text}' is not a span of time such as '36h', '90d', '12w' or '1y'"
        )
    return int(match[1]) * _UNITS[match[2]]


def load_settings(config: Sequence[Path]) -> AuditSettings:
    """Read the settings of the first ``audit.toml`` in these directories.

    Raises SetupError: a setting half understood would drop or keep the wrong
    values.
    """
    for directory in config:
        path = directory / "audit.toml"
        try:
            text = read_config(path)
        except FileNotFoundError:
            continue
        try:
            return msgspec.toml.decode(text, type=AuditSettings)
        except UNREADABLE as error:
            known = ", ".join(AuditSettings.__struct_fields__)
            raise SetupError(
                f"invalid settings: {error}",
                where=str(path),
                hint=f"correct the file; its valid keys are {known}",
            ) from error
    return AuditSettings()
