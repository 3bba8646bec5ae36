"""Write menu entries and icons of records and of open windows.

A task bar looks for a window's icon by its application id: an entry of that name, or
one with that StartupWMClass.  A window's id is ``vitrail.SANDBOX.ID``, and ID is the
application's, so hidden entries are written for the ids of the windows that there are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from broker.cli.policy.records import read_records
from broker.cli.run.connect import ask, broker_runs, offline_paths
from broker.cli.sandboxes.desktop_entry import (
    AUTOSTART_PREFIX,
    WINDOW_KEY,
    WINDOW_PREFIX,
    autostart_home,
    has_entry,
    window_file,
    write_autostart,
    write_entry,
    write_window_entry,
)
from broker.core.errors import VitrailError
from broker.ipc.control.api import Nothing, WindowsRequest
from broker.ipc.control.methods import STATUS, WINDOWS
from broker.session.menu_icons import data_home
from policy.records.model import Record

_IDS_PER_SANDBOX = 32
"""Hidden entries of one sandbox: its programs choose the ids."""
_APP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def refresh() -> tuple[list[Path], list[Path]]:
    """Write the entries of records that have one, and a hidden one for each open window.

    Returns the files written, and the hidden entries removed with their sandboxes.
    """
    records = read_records(offline_paths()).records
    started = follow_autostart(records)
    written, removed = _write_entries(records)
    return [*started, *written], removed


def _write_entries(records: Mapping[str, Record]) -> tuple[list[Path], list[Path]]:
    """Write entries of records and windows; return as ``refresh``."""
    there = {name: record for name, record in records.items() if has_entry(name)}
    written = [path for record in there.values() for path in write_entry(record)]
    running = _running()
    for sandbox, untrusted_ids in _application_ids(running).items():
        record = there.get(running[sandbox])
        if record is not None:
            written += [
                write_window_entry(
                    record, sandbox, f"{WINDOW_PREFIX}{sandbox}.{app_id}"
                )
                for app_id in _plain(untrusted_ids)
            ]
    expected = {window_file(record) for record in there.values()}
    return written, _sweep(running, expected)


def follow_autostart(records: Mapping[str, Record]) -> list[Path]:
    """Have the desktop start the records that say so, and no others at login.

    Returns the files written.  Raises OSError.
    """
    written = [path for one in records.values() for path in write_autostart(one)]
    for path in autostart_home().glob(f"{AUTOSTART_PREFIX}*.desktop"):
        if path not in written:
            path.unlink()
    return written


def follow_windows() -> None:
    """Write the menu entries of the windows that are open.

    A failure costs an icon, so it is not reported.
    """
    with suppress(VitrailError, OSError):
        _write_entries(read_records(offline_paths()).records)


def _running() -> dict[str, str]:
    """Return the record of each sandbox that runs."""
    if not broker_runs(offline_paths()):
        return {}
    return {one.name: one.record for one in ask(STATUS, Nothing()).sandboxes}


def _application_ids(running: Collection[str]) -> dict[str, set[str]]:
    """Return the application ids of windows, by sandbox."""
    found: dict[str, set[str]] = {}
    if running:
        for window in ask(WINDOWS, WindowsRequest()).windows:
            if window.sandbox in running:
                found.setdefault(window.sandbox, set()).add(window.app_id)
    return found


def _plain(untrusted_ids: Iterable[str]) -> list[str]:
    """Return the ids that can be names of files, not too many."""
    # guard: an application id is a file's name only if it is plain
    plain = [one for one in sorted(untrusted_ids) if _APP_ID.fullmatch(one)]
    return plain[:_IDS_PER_SANDBOX]


def _sweep(running: Collection[str], kept: Collection[Path | None]) -> list[Path]:
    """Remove hidden entries of ended sandboxes, except ``kept``; return them."""
    removed = []
    found = (data_home() / "applications").glob(f"{WINDOW_PREFIX}*.desktop")
    for path in (one for one in found if one not in kept):
        text = path.read_text(encoding="utf-8", errors="replace")
        sandbox = re.search(rf"(?m)^{WINDOW_KEY}=(.*)$", text)
        if sandbox and sandbox[1] not in running:
            path.unlink()
            removed.append(path)
    return removed
