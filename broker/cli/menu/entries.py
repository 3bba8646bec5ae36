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
    APP_ID,
    AUTOSTART_PREFIX,
    WINDOW_KEY,
    WINDOW_PREFIX,
    autostart_home,
    expect_windows,
    expect_windows_of,
    has_entry,
    window_files,
    write_autostart,
    write_entry,
    write_window_entry,
)
from broker.core.errors import VitrailError
from broker.ipc.control.api import Nothing, WindowsRequest
from broker.ipc.control.methods import STATUS, WINDOWS
from broker.session.menu_icons import data_home
from policy.records.model import Record

IDS_PER_SANDBOX = 32
"""Hidden entries of one sandbox: its programs choose the ids."""


def refresh() -> tuple[list[Path], list[Path]]:
    """Write the entries of all records, and a hidden one for each open window.

    Returns the files written, and the hidden entries removed with their sandboxes.
    """
    records = read_records(offline_paths()).records
    started = follow_autostart(records)
    written, removed = _write_entries(records, records)
    return [*started, *written], removed


def _write_entries(
    records: Mapping[str, Record], listed: Collection[str]
) -> tuple[list[Path], list[Path]]:
    """Write entries of the listed records, and of windows; return as ``refresh``."""
    written = [path for name in listed for path in write_entry(records[name])]
    running = _running()
    for sandbox, untrusted_ids in _application_ids(running).items():
        record = records.get(running[sandbox])
        if record is not None:
            written += [
                write_window_entry(
                    record, sandbox, f"{WINDOW_PREFIX}{sandbox}.{app_id}"
                )
                for app_id in _plain(untrusted_ids)
            ]
    expected = {path for name in listed for path in window_files(records[name])}
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


def expect(name: str) -> None:
    """Write the hidden entries of a record's windows before it starts, in the menu or not.

    A failure costs an icon, so it is not reported.
    """
    with suppress(VitrailError, OSError):
        record = read_records(offline_paths()).records.get(name)
        if record is not None:
            expect_windows(record)


def expect_of(name: str, sandbox: str) -> None:
    """Write the hidden entries of the windows of a record's disposable, as ``expect``."""
    with suppress(VitrailError, OSError):
        record = read_records(offline_paths()).records.get(name)
        if record is not None and sandbox != name:
            expect_windows_of(record, sandbox)


def follow_windows() -> None:
    """Write the menu entries of the windows that are open.

    A failure costs an icon, so it is not reported.
    """
    with suppress(VitrailError, OSError):
        records = read_records(offline_paths()).records
        _write_entries(records, [name for name in records if has_entry(name)])


def _running() -> dict[str, str]:
    """Return the record of each running sandbox; queries the broker if one runs."""
    if not broker_runs(offline_paths()):
        return {}
    return {one.name: one.record for one in ask(STATUS, Nothing()).sandboxes}


def _application_ids(running: Collection[str]) -> dict[str, set[str]]:
    """Query the broker for the application ids of windows, by sandbox."""
    found: dict[str, set[str]] = {}
    if running:
        for window in ask(WINDOWS, WindowsRequest()).windows:
            if window.sandbox in running:
                found.setdefault(window.sandbox, set()).add(window.app_id)
    return found


def _plain(untrusted_ids: Iterable[str]) -> list[str]:
    """Return the ids that can be names of files, not too many."""
    # guard: an application id is a file's name only if it is plain
    plain = [one for one in sorted(untrusted_ids) if APP_ID.fullmatch(one)]
    return plain[:IDS_PER_SANDBOX]


def _sweep(running: Collection[str], kept: Collection[Path]) -> list[Path]:
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
