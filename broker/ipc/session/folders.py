"""Orders about directories: those that a sandbox gets, and the viewer's own settings."""

from __future__ import annotations

from typing import TypeAlias

from broker.core.decoding import TypedMessage


class OpenFolder(TypedMessage, frozen=True, tag="open-folder"):
    """Open a directory that is to be shared.  Answer: its descriptor."""

    warrant: bytes
    path: str


FolderOrder: TypeAlias = OpenFolder
