"""A file for a benchmark's raw values, proven writable before the measuring."""

from __future__ import annotations

import argparse
from pathlib import Path


def result_file(name: str) -> Path:
    """The path, for ``add_argument(type=…)``: minutes of work are not lost to it.

    Creates the file, and the folders above it.  Raises ArgumentTypeError, which
    argparse prints, where it cannot be written.
    """
    path = Path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}"
        raise argparse.ArgumentTypeError(msg) from error
    return path
