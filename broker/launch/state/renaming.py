"""Giving a sandbox another name: its record and its home change together.

Two directories are concerned, and no rename(2) changes both.  So the change is
written down first; one that a crash interrupted is completed by the next command or start.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from broker.core.errors import UpstreamError
from broker.core.names import take_sandbox_name
from broker.launch.state.store import HomeStore, flush

_JOURNAL = ".renaming.json"


class Renaming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of name: ``text`` of the new record, written to ``new``."""

    name: str
    to: str
    old: str
    new: str
    text: str


def rename_sandbox(store: HomeStore, change: Renaming) -> None:
    """Rename a home and its record; the caller holds both locks.

    Raises OSError when the disk is full: nothing has changed then.
    """
    journal = store.root / _JOURNAL
    _replace(journal, msgspec.json.encode(change))
    recover(store)


def recover(store: HomeStore) -> None:
    """Complete an interrupted change of name and remove leftovers of crashes.

    Raises UpstreamError when its description cannot be read.
    """
    journal = store.root / _JOURNAL
    try:
        change = msgspec.json.decode(journal.read_bytes(), type=Renaming)
    except FileNotFoundError:
        change = None
    except ValueError as error:
        raise UpstreamError(f"{journal}: {error}") from error
    if change is not None:
        _complete(store, change)
        journal.unlink(missing_ok=True)
    store.sweep()


def _complete(store: HomeStore, change: Renaming) -> None:
    """Each step does nothing when it was done before."""
    name, to = take_sandbox_name(change.name), take_sandbox_name(change.to)
    old, new = Path(change.old), Path(change.new)
    if store.find(name) is not None and store.find(to) is None:
        store.rename(name, to)
    if old.exists():
        _replace(new, change.text.encode())
        old.unlink()
        flush(old.parent)


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    flush(path.parent)
