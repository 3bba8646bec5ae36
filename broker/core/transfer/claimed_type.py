"""The type of a file by its name."""

from __future__ import annotations

import mimetypes


def claimed(name: str) -> str:
    """Return the type that the name says, or nothing.

    As of a path, which is what the target's opener looks at (``shims/files``).
    """
    # mimetypes reads a word with a colon as an address: "data:,a.html" is text/plain to
    # it, and from Python 3.12 on "ab:a.png?.html" a picture.
    # guard: a file's name is not parsed as a URL
    path = "/" + name.rpartition("/")[2]
    return (mimetypes.guess_type(path, strict=False)[0] or "").lower()
