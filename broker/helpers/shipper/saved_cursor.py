"""Putting a receiver's cursor on disk."""

from __future__ import annotations

from pathlib import Path

import msgspec

from broker.core.errors import UpstreamError
from broker.core.files.replace_file import replace_file
from broker.helpers.shipper.cursor import SUFFIX, Cursor


def save_cursor(directory: Path, cursor: Cursor) -> None:
    """Write a receiver's cursor to disk.  Raises UpstreamError."""
    path = directory / f"{cursor.name}{SUFFIX}"
    try:
        replace_file(path, msgspec.json.encode(cursor) + b"\n")
    except OSError as error:
        raise UpstreamError(
            f"cannot save the progress of '{cursor.name}' in {path}: {error.strerror}"
        ) from error
