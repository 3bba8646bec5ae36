"""Between host and viewer: endpoints and the seam that both roles speak through.

Processes: viewer, host (control, lease_book, messages, preamble); viewer, host,
brokerctl (epoch, handshake, keys, link_reader, wire_types); viewer
(pending_connections, preamble_gate).
"""

from __future__ import annotations
