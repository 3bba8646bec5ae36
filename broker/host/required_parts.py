"""Packages that records need on the machine where their sandboxes start.

The host and brokerctl call it.
"""

from __future__ import annotations

from broker.core.parts.absent import is_installed, require
from broker.core.parts.table import package
from policy.records.model import Record, RecordSet, is_of_others

_LAUNCHERS = "launchers"


def require_parts(record: Record) -> None:
    """Raise AbsentPartError if a package that a record needs is not installed.

    The host calls it before a launch or a lease, brokerctl before it creates a domain or
    machine for a run.  It looks for modules, and imports nothing of the package.
    """
    kind = record.host.launch.kind
    if kind.part:
        # guard: no sandbox starts whose launcher is not installed
        require(kind.part, f'kind = "{kind.name}"', where=record.where("launch.kind"))
    # In a machine that another program starts the key has no effect.
    if record.viewer.window.x11 and not is_of_others(record.host.launch):
        # guard: a record that allows X11 programs is not ignored
        require("x11", "x11 = true", where=record.where("window.x11"))


def unleased_records(records: RecordSet) -> list[str]:
    """Return warnings of records whose machines get no lease: a package is missing."""
    if is_installed(_LAUNCHERS):
        return []
    launches = ((name, r.host.launch) for name, r in records.records.items())
    return [
        f"'{name}' gets no lease {launch.peer.leased}: the package "
        f"{package(_LAUNCHERS)} is not installed"
        for name, launch in launches
        if is_of_others(launch) and launch.peer.leased
    ]
