"""Errors about the sandbox that a request names."""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.wire.faults import NotFoundError
from policy.records.model import Record
from policy.suggestions import did_you_mean


def require_running(sandbox: str, *, suspended: bool) -> None:
    """Raise RefusedError if a sandbox that a request names is suspended."""
    if suspended:
        raise RefusedError(
            f"{sandbox} is suspended",
            hint=f"to let its programs run again, run 'brokerctl resume {sandbox}'",
        )


def agentless(sandbox: str, record: Record) -> RefusedError:
    """Return the error for a request to a container or box that has no guest agent."""
    hint = "to get a file out, use the Save dialog of its program if a rule for vitrail.FileDialog allows it, or run 'vitrail-copy FILE @adminvm' in a terminal of the sandbox; to start a program, run 'brokerctl run' again, which starts another sandbox"
    if sandbox != record.name:  # a box without a record has its name
        hint = f"to get a file out, use the Save dialog of its program if a rule for vitrail.FileDialog allows it, or run 'vitrail-copy FILE @adminvm' in a terminal of the sandbox; to start a program, run 'brokerctl run {record.name} -- PROGRAM', which starts another sandbox"
    if record.viewer.sandbox_class == "persistent":
        # Its home is in use until it has stopped.
        hint = f"to get a file out, use the Save dialog of its program if a rule for vitrail.FileDialog allows it, or run 'vitrail-copy FILE @adminvm' in a terminal of the sandbox; to start a program, run 'brokerctl stop {sandbox}' first, and then 'brokerctl run {record.name} -- PROGRAM'"
    if record.host.launch.kind.mounts:  # others share no folders
        hint = f"{hint}; to get files in, run 'brokerctl share {sandbox} DIRECTORY'"
    return RefusedError(
        f"{sandbox} is a container or box without a guest agent: Vitrail cannot start a "
        "program or store a file in it",
        hint=hint,
    )


def not_running(untrusted_name: str, pairs: Iterable[tuple[str, str]]) -> NotFoundError:
    """Return the error for a name that no running (sandbox, record) has."""
    near = did_you_mean(untrusted_name, [name for pair in pairs for name in pair])
    return NotFoundError(
        f"no sandbox '{printable(untrusted_name, 64)}' is running",
        hint=near or "to list the running sandboxes, run 'brokerctl status'",
    )
