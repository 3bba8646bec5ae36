"""The chords that the user wants, by an order."""

from __future__ import annotations

import msgspec

from broker.core.clipboard.chord_settings import ChordChoice
from broker.ipc.session.display_orders import READ_CHORDS, ReadChords
from broker.viewer.orders.session_orders import UserSession, answered_file


async def ordered_chords(session: UserSession) -> ChordChoice:
    """Read the chords of the settings file as it is now.  Raises VitrailError."""
    content = await answered_file(session, READ_CHORDS, ReadChords())
    return msgspec.json.decode(content, type=ChordChoice)
