"""The line that describes a network whose flows Vitrail does not see."""

from __future__ import annotations

from broker.core.escape import printable


def unrecorded_network(sandbox: str, network: object) -> str:
    """Return why no flows of a sandbox are listed or recorded."""
    return (
        f"'{printable(sandbox, 60)}' has network = \"{network}\": only flows of "
        'sandboxes with network = "rules" are seen by Vitrail, listed and recorded'
    )
