"""Names that pass between rooms, validated once into types.

Each process that receives a name checks it by this again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NewType

from broker.core.errors import RefusedError
from broker.core.escape import printable

SandboxName = NewType("SandboxName", str)
"""A sandbox as the policy knows it: ``[a-z][a-z0-9-]{0,30}``."""

LeaseId = NewType("LeaseId", str)
"""16 lower-case hex digits, random, never used twice."""

ServiceName = NewType("ServiceName", str)
"""The service that a stream requests, as ``vitrail.Display``."""

# The name becomes a directory, a part of a UNIX socket path (108 bytes in
# all), a window title's prefix and a QEMU argument: short and plain.
_SANDBOX = re.compile(r"[a-z][a-z0-9-]{0,30}")
_RESERVED = frozenset({"dom0", "me", "you"})
"""Words for the user: in rules (``policy.names``), and in tools (``policy.tools.calls``)."""
_LEASE = re.compile(r"[0-9a-f]{16}")


def take_sandbox_name(untrusted_name: object) -> SandboxName:
    """Validate a sandbox's name and return it, or raise ``RefusedError``."""
    if isinstance(untrusted_name, str) and _SANDBOX.fullmatch(untrusted_name):
        return SandboxName(untrusted_name)
    raise RefusedError(
        f"{printable(str(untrusted_name), 60)!r} is not a sandbox name",
        hint="use 1 to 31 characters of a-z, 0-9 and '-', beginning with a-z",
    )


def is_sandbox_name(word: str) -> bool:
    """Return whether a word can be a sandbox's name."""
    return _SANDBOX.fullmatch(word) is not None


def take_new_name(untrusted_name: object) -> SandboxName:
    """Validate the name of a sandbox that is to be made; raises ``RefusedError``."""
    name = take_sandbox_name(untrusted_name)
    if name in _RESERVED:
        raise RefusedError(
            f"a sandbox cannot be named '{name}': in rules and commands the word means you, the user",
            hint="choose another name",
        )
    return name


def disposable_name(record: str, number: int) -> SandboxName:
    """Return the name of a disposable sandbox of a record.

    ``number`` has four digits.  A long record's name is cut, so that the whole
    stays a valid name.
    """
    return SandboxName(f"{record[: 31 - len('-9999')]}-{number}")


def sandboxes_named(name: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return the sandboxes that a name means, among pairs of (sandbox, record).

    A sandbox of exactly this name, or else all sandboxes of the record of this
    name.  Every verb that takes SANDBOX resolves its argument by this function.
    """
    known = list(pairs)
    exact = [sandbox for sandbox, _ in known if sandbox == name]
    return exact or [sandbox for sandbox, record in known if record == name]


def take_lease_id(untrusted_id: object) -> LeaseId:
    """Return the lease id, or raise ``RefusedError``."""
    if isinstance(untrusted_id, str) and _LEASE.fullmatch(untrusted_id):
        return LeaseId(untrusted_id)
    raise RefusedError(
        "invalid lease ID", hint="to list the leases, run 'brokerctl lease list'"
    )
