"""The audit log: the schema of events, their store, and queries.

Processes: authority, vitrail-local, before it is confined, viewer, host, brokerctl
(event_log, names); authority, brokerctl (names_key, retention, store); authority,
viewer, brokerctl (settings).
"""

from __future__ import annotations
