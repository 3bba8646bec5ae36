"""The type of arguments that are paths: no link of a sandbox leads to another file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rich_click as click
from typing_extensions import override

from broker.core.escape import printable
from broker.core.files.planted_links import named_path
from shims.files.sending import open_directory

_TERMINALS = frozenset({4, 5, *range(136, 144)})
"""Major numbers of terminals (devices.txt of Linux), as of /dev/stdin and /dev/tty."""
_NULL = os.makedev(1, 3)


class NamedPath(click.Path):
    """A path that the user names; a link that a sandbox may have made is refused."""

    @override
    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        given = super().convert(value, param, ctx)
        if not self.allow_dash or os.fspath(given) != "-":
            path = Path(os.fsdecode(given))
            # guard: a device without an end is not read
            if self.exists and not self.dir_okay and _endless(path):
                self.fail(f"{printable(str(path), 200)} is a device, not a file")
            refuse_planted_link(path)
        return given


def _endless(path: Path) -> bool:
    """Return whether a path is a device other than a terminal and /dev/null."""
    info = path.stat()
    if not stat.S_ISCHR(info.st_mode) and not stat.S_ISBLK(info.st_mode):
        return False
    # Not isatty(): to open a device may wait, or have an effect.
    return os.major(info.st_rdev) not in _TERMINALS and info.st_rdev != _NULL


def path_of(text: str) -> str:
    """Return the path that a file manager hands over, as it is or as a file: address."""
    if not text.startswith("file:///"):
        return text
    from urllib.parse import unquote_to_bytes

    return os.fsdecode(unquote_to_bytes(text.removeprefix("file://")))


def refuse_planted_link(path: Path) -> Path:
    """Return a path without links, absolute.

    Raises RefusedError if it leads through a sandbox's link out of the directory to which
    the sandbox may write.
    """
    whole = Path.cwd() / path
    # Without links no records need to be read.
    if ".." in whole.parts or os.path.realpath(whole) != str(whole):
        # Late: few paths have links, and verbs that read files only start without these.
        from broker.cli.run.connect import offline_paths
        from broker.cli.transfer.named_files import writable_places

        # guard: a file that is named to brokerctl is not a sandbox's link to another one
        return named_path(whole, writable_places(offline_paths()))
    return whole


@contextmanager
def opened_target(path: Path) -> Iterator[Path]:
    """Yield a path of this name in its directory, which stays open during the block.

    A sandbox that may write to the directory above may put a link in its place while the
    content is made, and does not change which directory is written to.  Raises
    RefusedError for a sandbox's link, OSError with the name that the user knows.
    """
    folder, inside = refuse_planted_link(path.parent), None
    try:
        # guard: a verb writes to the directory that was checked
        fd = open_directory(str(folder))
        try:
            inside = Path(f"/proc/self/fd/{fd}", path.name)
            yield inside
        finally:
            os.close(fd)
    except OSError as error:
        if error.filename in {str(folder), str(inside)}:
            error.filename = str(path)
        raise
