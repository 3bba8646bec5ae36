"""One row for each message of the Wayland filter: who, when, at what cost.

The same keys as the table of handlers (``handler_table.py``), compared with the
frozen protocol tables at import.  ``docs/wayland-messages.md`` is printed
from both (``python -m docs.tables.wayland.page``).
"""

from __future__ import annotations

from broker.jail.wayland.protocol.joined import complete, joined
from broker.jail.wayland.protocol.signatures import events_of, requests_of
from docs.tables.wayland import data, drawing, seats, shell, tablets

_MODULES = (data, drawing, seats, shell, tablets)

REQUESTS = complete(joined(m.REQUESTS for m in _MODULES), requests_of)
EVENTS = complete(joined(m.EVENTS for m in _MODULES), events_of)
