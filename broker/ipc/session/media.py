"""Orders about sound, cameras, screens and security keys."""

from __future__ import annotations

from typing import TypeAlias

from broker.core.decoding import TypedMessage


class ConnectSound(TypedMessage, frozen=True, tag="connect-sound"):
    """Connect to the sound server.  Answer: the socket."""

    warrant: bytes


MediaOrder: TypeAlias = ConnectSound
