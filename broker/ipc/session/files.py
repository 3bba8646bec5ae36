"""Orders about files and links of the user's: opening, copying, choosing, printing."""

from __future__ import annotations

from typing import TypeAlias

from broker.core.decoding import TypedMessage


class OpenUrl(TypedMessage, frozen=True, tag="open-url"):
    """Open an address by the user's program for it."""

    warrant: bytes
    url: str


FileOrder: TypeAlias = OpenUrl
