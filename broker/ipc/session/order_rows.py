"""The rows of all orders, and the limits of their connection.

The viewer calls them, one connection for each order; a session child serves them.
"""

from __future__ import annotations

from typing import Final

from broker.ipc.session import (
    bus_orders,
    display_orders,
    file_orders,
    folder_orders,
    media_orders,
    program_orders,
    service_orders,
)
from broker.wire.row import rows_of

MESSAGE_BYTES: Final = 1 << 17

ROWS: Final = rows_of(
    {
        f"{module.__name__}.{name}": value
        for module in (
            bus_orders,
            display_orders,
            file_orders,
            folder_orders,
            media_orders,
            program_orders,
            service_orders,
        )
        for name, value in vars(module).items()
    }
)
