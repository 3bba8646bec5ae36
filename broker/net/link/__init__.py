"""Between host and viewer: endpoints and the seam that both roles speak through.

Processes: viewer, host (control, preamble); viewer, host, brokerctl (epoch, handshake,
keys, link_reader); vitrail-local before its fork, viewer, host (lease_book, messages);
viewer (pending_connections, preamble_gate); session children, vitrail-local before its
fork, viewer, host, brokerctl (wire_types).
"""

from __future__ import annotations
