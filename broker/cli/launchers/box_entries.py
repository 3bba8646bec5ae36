"""Menu entries that start programs in boxes: by our command, and by the original again.

The files are the user's, written by 'distrobox-export' or by hand.  Programs in a box can
write them, too: only the program's own word of an Exec line is replaced, and only where
it is exactly the box's program.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from broker.cli.sandboxes.desktop_entry import quoted
from broker.core.files.replace_file import replace_file
from broker.session.menu_icons import data_home

_ENTRY_BYTES = 1 << 20
_KEY = "Exec="


def replaced(text: str, is_old: Callable[[str], bool], new: str) -> str:
    """Return an entry's text with another program in each Exec line that begins with the old.

    Source: Desktop Entry Specification 1.5, "The Exec key".
    """
    return "".join(
        _replaced_line(line, is_old, new) for line in text.splitlines(keepends=True)
    )


def _replaced_line(line: str, is_old: Callable[[str], bool], new: str) -> str:
    if not line.startswith(_KEY):
        return line
    value = line.removeprefix(_KEY)
    if value.startswith('"'):
        word, closing, rest = value[1:].partition('"')
        whole = bool(closing) and not rest[:1].strip()
    else:
        word = value.split(maxsplit=1)[0] if value.strip() else ""
        rest, whole = value[len(word) :], value.startswith(word)
    # guard: an entry's program is the box's, and not one that only looks like it
    if not whole or "\\" in word or not is_old(word):
        return line
    return f"{_KEY}{quoted(new)}{rest}"


def replace_all(is_old: Callable[[str], bool], new: Path) -> list[Path]:
    """Replace the program in the user's menu entries; return the changed files.

    Raises OSError.
    """
    changed = []
    for path, text in _entries():
        made = replaced(text, is_old, str(new))
        if made != text:
            mode = stat.S_IMODE(path.stat().st_mode)
            replace_file(path, made.encode("utf-8", "surrogateescape"), mode=mode)
            changed.append(path)
    return changed


def _entries() -> Iterator[tuple[Path, str]]:
    """Yield the user's menu entries that are regular files of moderate size."""
    for path in sorted((data_home() / "applications").glob("*.desktop")):
        try:
            fd = os.open(
                path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except OSError:
            continue  # a symbolic link leads to a file that is no entry of the menu's
        with os.fdopen(fd, "rb") as file:
            info = os.fstat(fd)
            # guard: a menu entry is read whole or not at all
            if stat.S_ISREG(info.st_mode) and info.st_size <= _ENTRY_BYTES:
                yield path, file.read(_ENTRY_BYTES).decode("utf-8", "surrogateescape")
