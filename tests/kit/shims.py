"""The programs of the guest as they are shipped: one file each."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from shims import bundle


@cache
def _directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="vitrail-shims-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    bundle.write_programs(directory)
    return directory


def guest_program() -> str:
    """Return the path of the guest agent."""
    return str(_directory() / "vitrail_guest.py")


def files_program() -> str:
    """Return the path of the program for files and links."""
    return str(_directory() / "vitrail_files.py")
