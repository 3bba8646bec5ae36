"""What all orders have in common: their base, and who makes and serves them."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.wire.row import ProcessKind

ENDS: Final = (frozenset({ProcessKind.SESSION_CHILD}), frozenset({ProcessKind.VIEWER}))
"""Who serves the rows of orders, and who calls them."""


class OrderMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the requests and answers of orders."""
