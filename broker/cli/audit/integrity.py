"""Warn if the log that ``brokerctl audit`` shows was changed."""

from __future__ import annotations

from broker.cli.audit.source import LocalSource, Source
from broker.core.errors import VitrailError

_EVENTS = 20_000
"""A longer log is not verified at each question: that would take seconds."""


def banner(source: Source) -> str:
    """Return a warning to show below the events, or an empty string.

    A long log, and a fleet's store, are not looked at: 'audit verify' does.
    """
    if not isinstance(source, LocalSource) or not source.own:
        return ""
    if not 0 < source.log.newest() <= _EVENTS:
        return ""
    from broker.cli.audit.verify import verified  # late: the proof's modules

    try:
        report = verified(source.path, [], origin="", copy=False)
    except VitrailError as error:
        return f"WARNING: the log could not be verified: {error}"
    if report.good:
        return ""
    return (
        "WARNING: this log is NOT intact: events were changed, removed "
        "or added; to see which, run 'brokerctl audit verify'"
    )
