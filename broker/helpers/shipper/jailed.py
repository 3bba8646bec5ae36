"""The orders of a jailed shipper: receivers, and paths in its jail."""

from __future__ import annotations

import msgspec

from broker.helpers.shipper.config import AnyTarget


class ShipperOrders(msgspec.Struct, forbid_unknown_fields=True):
    """What a jailed shipper reads first, from the process that made its jail."""

    log: str
    cursors: str
    machine: str
    batch_seconds: float
    target: list[AnyTarget]
    doors: dict[str, int]
    """Of receivers of this machine: the descriptor that opens them."""
