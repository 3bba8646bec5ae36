"""The type of a file by its name.

The viewer names a type for a decision by this; a worker compares it with what the
content begins with.
"""

from __future__ import annotations

import mimetypes


def mime_type_of_name(name: str) -> str:
    """Return the MIME type that a file's name claims, or nothing.

    The name is read as a path, as the target's opener does (``shims/files``).
    """
    # mimetypes reads a word with a colon as an address: "data:,a.html" is text/plain to
    # it, and from Python 3.12 on "ab:a.png?.html" a picture.
    # guard: a file's name is not parsed as a URL
    path = "/" + name.rpartition("/")[2]
    return (mimetypes.guess_type(path, strict=False)[0] or "").lower()
