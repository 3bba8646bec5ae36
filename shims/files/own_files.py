"""The commands that also run beside the broker, for the user's own files.

Only one file of this module and its imports run there, and nothing else.

A session child starts them, jailed by ``confine``; ``__main__`` has them in the
sandbox, too.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from shims.files.confine import confine
from shims.files.edited import Edited, Saved
from shims.files.incoming_files import EntryStore, keep, require_room
from shims.files.page_writers import PdfWriter
from shims.files.pages import (
    PRINT_DPI,
    PRINT_PIXELS,
    PagesError,
    describe_preview,
    read_pages,
)
from shims.files.protocol import (
    TransferError,
    read_message,
    size_of,
    tell,
)
from shims.files.sending import Walk, write_entries

if TYPE_CHECKING:
    from typing import List

# Of the process that keeps pages: one in colour, and Python with what compresses it.
PRINT_MEMORY = 3 * PRINT_PIXELS + (64 << 20)


def send_files(words: List[str]) -> int:
    """Write the entries of the user's own files to standard output, from a jail.

    Run by a session child, which has followed the links in their paths.  Prints what is
    left out.
    """
    # guard: files are sent from a jail
    confine(words)
    walk = Walk(words, follow=False)
    walk.require_files()
    walk.report()
    _write(walk)
    return 0


def _write(walk: Walk) -> None:
    try:
        write_entries(walk, sys.stdout.buffer)
    except BrokenPipeError:
        raise TransferError("the receiver cancelled the transfer") from None


def edit_file(words: List[str]) -> int:
    """Write a file's entries to standard output, then replace it by the edited file.

    Nothing comes back where standard input ends at once.  ``edit FILE ORIGIN``.
    """
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    _confine_to_folder(words[0])
    # guard: a link made after the look is not edited through
    walk = Walk(words[:1], follow=False)
    if len(walk.found) != 1 or walk.found[0][2] < 0:
        raise TransferError(f"{words[0]} is not a regular file")
    path = walk.found[0][1]
    edited = Edited(path)
    tell(f"sha256 {edited.before.hex()}")
    _write(walk)
    os.dup2(null, 1)  # its end is what the receiver waits for
    with os.fdopen(0, "rb") as back:
        if back.peek(1):
            tell(edited.replace(back, words[1]))
        else:
            tell(f"{os.path.basename(path)} is unchanged")
    return 0


def save_file(words: List[str]) -> int:
    """Put the entry on standard input in a file's place: ``save FILE …``.

    Says the SHA-256 of the kept file.
    """
    _confine_to_folder(words[0])
    saved = Saved(words[0], words[2], int(words[3]))
    with os.fdopen(0, "rb", closefd=False) as source:
        text = saved.replace(source, words[1])
    tell(f"sha256 {saved.kept.hex()}")
    tell(text)
    return 0


def _confine_to_folder(path: str) -> None:
    """Leave the session, but for the directory of a file that is to be written."""
    import hashlib  # noqa: F401 -- nothing can be loaded in the jail

    # guard: files are replaced and made from a jail
    confine([os.path.dirname(path)], write=True)


def store_entries(words: List[str]) -> int:
    """Keep entries from standard input; prints the names as JSON.

    ``store DIRECTORY ORIGIN FREE``: the directory exists, and its path has no link.
    """
    import shutil  # noqa: F401 -- for clearing up: nothing can be loaded in the jail

    # guard: files are kept from a jail
    confine(words[:1], write=True)
    kept = EntryStore(words[0], words[1], int(words[2]))
    with os.fdopen(0, "rb", closefd=False) as source:
        names = keep(source, kept)
    print(json.dumps(names))
    return 0


def keep_pages(words: List[str]) -> int:
    """Write pages to a PDF file, at the desktop: ``pages FILE FREE``.

    They are the one entry on standard input.  Prints how many there are, and the first one
    as a small picture.
    """
    import binascii  # noqa: F401
    import resource
    import zlib  # noqa: F401 -- nothing can be loaded in the jail

    # Before the jail, which refuses this call.
    # guard: pages are kept with little memory
    resource.setrlimit(resource.RLIMIT_DATA, (PRINT_MEMORY, PRINT_MEMORY))
    _confine_to_folder(words[0])
    count, preview = 0, ""
    with open(words[0], "xb") as out, os.fdopen(0, "rb", closefd=False) as source:
        entry = read_message(source)
        if entry["type"] != "file" or not size_of(entry):
            raise PagesError("the sandbox sent data that are not pages")
        pdf = PdfWriter(out, PRINT_DPI)
        for page in read_pages(
            source, grey=True, words_most=0, pixels_most=PRINT_PIXELS
        ):
            # guard: room for a page to be printed
            require_room(out.fileno(), len(page[2]), int(words[1]))
            preview = preview or describe_preview(page)
            pdf.add(page)
            count += 1
            del page  # before there is another one in memory
        if not count or read_message(source)["type"] != "end":
            raise PagesError("the sandbox sent data that are not pages")
        pdf.finish()
    tell(f"pages {count} {preview}")
    return 0


OWN_VERBS = {
    "send": send_files,
    "edit": edit_file,
    "save": save_file,
    "store": store_entries,
    "pages": keep_pages,
}
