"""The programs of the guest as they are shipped: one file each."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from shims import bundle


@cache
def _directory() -> Path:
    """Return the directory of these very programs."""
    content = bundle.guest_agent() + bundle.files_tool()
    return programs_directory("shims", content, bundle.write_programs)


def programs_directory(
    what: str, content: bytes, write: Callable[[Path], object]
) -> Path:
    """Return a directory that ``write`` has filled with programs made of ``content``.

    Of one name for the same sources, because a worker of pytest-xdist that is ended
    removes nothing: there is one of it, whatever happens.
    """
    digest = hashlib.sha256(content).hexdigest()[:16]
    name = f"vitrail-{what}-{os.getuid()}-{digest}"
    # Where only this user writes: the name can be guessed.
    top = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.mkdtemp())
    directory = top / name
    if not directory.is_dir():
        made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=top))
        write(made)
        try:
            made.rename(directory)
        except OSError:  # another worker was first
            for path in made.iterdir():
                path.unlink()
            made.rmdir()
    return directory


def guest_program() -> str:
    """Return the path of the guest agent."""
    return str(_directory() / "vitrail_guest.py")


def files_program() -> str:
    """Return the path of the program for files and links."""
    return str(_directory() / "vitrail_files.py")
