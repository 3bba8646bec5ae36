"""Giving a sandbox another name: its record, its rules and its home change together.

Two directories are concerned, and no rename(2) changes both.  So the change is
written down first; a change that a crash interrupted is completed by the next command or start.

``brokerctl`` renames, and completes a change at its next command; the host completes
one at its start.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from broker.core.errors import UpstreamError
from broker.core.files.replace_file import flush_folder, replace_file
from broker.core.names import take_sandbox_name
from broker.host.homes.store import HomeStore

_JOURNAL = ".renaming.json"


class Renaming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of name: ``text`` of the new record, written to ``new``.

    ``files`` are the texts of other files that have the name, by path; those of ``gone``
    are removed.
    """

    name: str
    to: str
    old: str
    new: str
    text: str
    files: dict[str, str] = {}
    gone: tuple[str, ...] = ()


def rename_sandbox(store: HomeStore, change: Renaming) -> None:
    """Rename a home, its record and its rules; the caller holds both locks.

    Raises OSError when the disk is full: nothing has changed then.
    """
    journal = store.root / _JOURNAL
    replace_file(journal, msgspec.json.encode(change))
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
    except (ValueError, RecursionError) as error:
        raise UpstreamError(f"invalid content of {journal}: {error}") from error
    if change is not None:
        _complete(store, change)
        journal.unlink(missing_ok=True)
    store.sweep()


def _complete(store: HomeStore, change: Renaming) -> None:
    """Complete a renaming: move the home, write rules and record, delete the old ones.

    Steps that were done before are skipped.
    """
    name, to = take_sandbox_name(change.name), take_sandbox_name(change.to)
    old, new = Path(change.old), Path(change.new)
    if store.find(name) is not None and store.find(to) is None:
        store.rename(name, to)
    for path, text in change.files.items():
        replace_file(Path(path), text.encode())
    for path in change.gone:
        Path(path).unlink(missing_ok=True)
    if old.exists():
        replace_file(new, change.text.encode())
        old.unlink()
        flush_folder(old.parent)
