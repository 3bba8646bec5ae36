"""A part of a page that is printed from code: the text between two markers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def replace_section(text: str, begin: str, end: str, section: str) -> str:
    """Return the document with a new section.  Raises ValueError without the markers."""
    head, first, body = text.partition(begin)
    _, last, tail = body.partition(end)
    if not first or not last:
        raise ValueError(f"the document has no place between '{begin}' and '{end}'")
    return f"{head}{begin}\n{section}\n{end}{tail}"


def update_file(updated: Callable[[str], str], content: str) -> int:
    """Write a section into FILE of the command line; with --check, only compare.

    ``content`` names the section for the message; returns the exit code.
    """
    path = Path(sys.argv[1])
    text = path.read_text()
    new = updated(text)
    if "--check" not in sys.argv[2:]:
        path.write_text(new)
    elif new != text:
        sys.stderr.write(f"{path} does not have the present {content}\n")
        return 1
    return 0
