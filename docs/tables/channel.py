"""The row that each message of a channel has: who, when, at what cost.

As ``docs.tables.wayland`` for Wayland: five questions that are asked of
every message that crosses a boundary.  ``docs/messages.md`` shows the answers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChannelPolicy:
    """One row; no column may be empty.

    ``sender`` may send it so that it has an effect, ``when`` that holds;
    ``cost`` is the receiver's, with the limit that bounds it.  ``descriptors``
    says which come with it and who owns their files.  ``gain`` is the
    advantage that a hostile sender gets from it.
    """

    sender: str
    when: str
    cost: str
    descriptors: str
    gain: str


def no_descriptors(sender: str, when: str, cost: str, gain: str) -> ChannelPolicy:
    """The row of a message without descriptors, as most are."""
    return ChannelPolicy(sender, when, cost, "none", gain)
