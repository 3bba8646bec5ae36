"""A directory that is to be shared, or an image that is to be a disk, by its descriptor.

A session child opens it and gives it to the host, which mounts it; the viewer only has
the words for a request.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from broker.core.errors import RefusedError
from broker.core.escape import printable

_PATH_CHARACTERS = 1 << 16
"""All of a path of PATH_MAX bytes, each escaped."""
_ARGUMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


def folder_argument(name: str) -> str:
    """Return the argument of a request for a folder of this name."""
    return f"+{name}" if _ARGUMENT.fullmatch(name) else "+"


def folder_object(path: Path) -> str:
    """Return what a request for a folder is about: its path, whole and escaped."""
    return printable(os.fsencode(path), _PATH_CHARACTERS)


def overlap_error(sandbox: str, inner: Path, outer: Path) -> RefusedError:
    """Return the refusal of a path to read in a path to which a sandbox writes."""
    inner_text, outer_text = (printable(str(path), 200) for path in (inner, outer))
    return RefusedError(
        f"{sandbox} may only read {inner_text}, but could change it, because it may write to {outer_text}",
        hint="share directories that do not contain each other, or both to write",
    )


@dataclass(eq=False)
class OpenedFolder:
    """A directory or image of the user's, held by ``fd`` until ``close``."""

    path: Path
    """Without links, as it was when it was opened."""
    fd: int
    """Of O_PATH; of an image, for reading or for reading and writing."""
    at: str = ""
    """Where it is mounted in the sandbox; empty: below /folders, by its name."""
    tag: str = ""
    """Of an image, which is a disk of this name in the sandbox."""

    @property
    def name(self) -> str:
        """The directory's name in a sandbox, or the disk's."""
        return self.tag or self.path.name

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
