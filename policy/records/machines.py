"""Keys that exclude each other in records of machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from policy.records.desktop_tables import FOLDERS
from policy.records.field_types import Path as KeyPath
from policy.records.launch_table import MONITORS, STATE
from policy.records.record_schema import KIND_KEY

Complain = Callable[[KeyPath, str, str, str], None]
_INSTEAD = 'set kind = "microvm"'


def check(taken: Mapping[str, object], complain: Complain) -> None:
    """Complain about what a machine of this record cannot have."""
    if taken[KIND_KEY] in MONITORS:
        _check_monitor(taken, complain)
    elif taken["launch.fork"] == "shared":
        _check_shared(taken, complain)


def _check_monitor(taken: Mapping[str, object], complain: Complain) -> None:
    """VMMs other than QEMU have no folder and no encrypted disk."""
    kind = str(taken[KIND_KEY])
    if taken.get("state.encrypted"):
        complain(
            (STATE.name, "encrypted"),
            f'kind = "{kind}" cannot open an encrypted disk: it knows no LUKS',
            "encrypted = false",
            _INSTEAD,
        )
    for field in FOLDERS.fields:
        if taken[f"{FOLDERS.name}.{field.key}"]:
            complain(
                (FOLDERS.name, field.key),
                f'a sandbox of kind = "{kind}" has no folders',
                "",
                f"remove it, or {_INSTEAD}",
            )


def _check_shared(taken: Mapping[str, object], complain: Complain) -> None:
    """Only a disposable machine without devices of others shares memory."""
    kept = taken.get("class")
    folders = [f for f in FOLDERS.fields if taken[f"folders.{f.key}"]]
    why = ""
    if kept is not None and kept != "disposable":
        why = f'class = "{kept}": only disposable machines share memory'
    elif taken["launch.huge_pages"]:
        why = "huge_pages: a machine would copy 2 MiB for each byte that it writes"
    elif folders or taken["launch.folders"]:
        why = "folders: their process (virtiofsd) would have its siblings' memory"
    # guard: a record that cannot share memory does not ask for it
    if why:
        complain(
            ("launch", "fork"),
            f'fork = "shared" does not go with {why}',
            'fork = "copy" or "no"',
            'set fork = "copy", or remove the other key',
        )
