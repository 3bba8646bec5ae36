"""Policies of other systems, turned into our records and rules.

An importer is pure: it takes the bytes of files and returns the files to be
written (``Imported``) with a note for each line whose meaning changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from policy.errors import visible


class ImportNote(NamedTuple):
    """Something that is not the same after the import.

    ``row`` is a short word for its kind, ``where`` a place in the source as
    ``file:line:column`` or ``file``.
    """

    where: str
    row: str
    message: str

    def text(self) -> str:
        """One line, escaped for showing."""
        return f"{visible(self.where)}: {visible(self.message)} [{self.row}]"


@dataclass(frozen=True)
class Imported:
    """Files by their path below the target directory, and the report."""

    files: Mapping[str, str]
    notes: tuple[ImportNote, ...]


class ImportFileError(ValueError):
    """A file of the other system that cannot be read; the text has its place."""
